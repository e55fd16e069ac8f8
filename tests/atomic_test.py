import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

from keras_switch import atomic


class WholeTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def names(self):
        return sorted(str(x.relative_to(self.directory)) for x in self.directory.rglob("*"))

    def test_a_file_appears_at_the_end_and_replaces_an_older_one(self):
        path = self.directory / "new" / "file.txt"
        for text in ("first", "second"):
            with atomic.whole(str(path)) as beside:
                beside.write_text(text)
                self.assertEqual(path.exists(), text == "second")
            self.assertEqual(path.read_text(), text)
        self.assertEqual(self.names(), ["new", "new/file.txt"])

    def test_a_folder_is_synced_before_it_appears(self):
        path, synced = self.directory / "folder", []

        def sync(written):
            synced.append((written.name, path.exists()))

        with unittest.mock.patch.object(atomic, "sync", sync), atomic.whole(path) as beside:
            (beside / "inner").mkdir(parents=True)
            (beside / "inner" / "file").touch()
        before = {("inner", False), ("file", False), (beside.name, False)}
        self.assertEqual(set(synced), before | {(self.directory.name, True)})
        self.assertEqual(self.names(), ["folder", "folder/inner", "folder/inner/file"])

    def test_an_error_leaves_what_was_there(self):
        path = self.directory / "file"
        path.write_text("before")
        with self.assertRaisesRegex(OSError, "full"), atomic.whole(path) as beside:
            beside.write_text("half")
            raise OSError("full")
        with self.assertRaises(FileNotFoundError), atomic.whole(path):
            pass
        self.assertEqual((self.names(), path.read_text()), (["file"], "before"))

    def leftover(self, host, process):
        return self.directory / f".file.{host}+{process}+0123abcd.tmp"

    def test_leftovers_of_a_killed_writer_are_removed(self):
        killed = subprocess.Popen([sys.executable, "-c", ""])
        killed.wait()
        for make in (pathlib.Path.mkdir, pathlib.Path.touch):
            make(self.leftover(socket.gethostname(), killed.pid))
            with atomic.whole(self.directory / "file") as beside:
                self.assertFalse(beside.exists())
                beside.touch()
            self.assertEqual(self.names(), ["file"])

    def test_what_other_writers_write_stays(self):
        running = self.leftover(socket.gethostname(), os.getppid())
        elsewhere = self.leftover(f"{socket.gethostname()}-2", 2**22 + 1)
        running.touch(), elsewhere.touch()
        with atomic.whole(self.directory / "file") as beside:
            beside.touch()
        self.assertEqual(self.names(), sorted(["file", running.name, elsewhere.name]))

    def test_writers_at_once_do_not_mix(self):
        path = self.directory / "folder"
        with self.assertRaisesRegex(OSError, "not empty"), atomic.whole(path) as one:
            one.mkdir()
            (one / "a").touch()
            with atomic.whole(path) as other:
                other.mkdir()
                (other / "b").touch()
        self.assertEqual(self.names(), ["folder", "folder/b"])

    def test_a_full_folder_is_not_replaced(self):
        (self.directory / "folder" / "inner").mkdir(parents=True)
        with self.assertRaises(OSError), atomic.whole(self.directory / "folder") as beside:
            beside.mkdir()
        self.assertEqual(self.names(), ["folder", "folder/inner"])


if __name__ == "__main__":
    unittest.main()
