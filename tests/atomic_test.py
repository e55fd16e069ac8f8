import errno
import os
import pathlib
import resource
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

    def test_an_error_leaves_no_folder_that_was_made(self):
        (self.directory / "old").mkdir()
        with self.assertRaisesRegex(OSError, "full"):
            with atomic.whole(self.directory / "old" / "new" / "newer" / "file") as beside:
                beside.touch()
                raise OSError("full")
        self.assertEqual(self.names(), ["old"])

    def test_errors_name_the_file_that_was_to_be(self):
        path = self.directory / "folder"
        full = OSError(errno.ENOSPC, "No space left on device")
        inner = PermissionError(errno.EACCES, "Permission denied")
        for error, inside, expected in (
            (full, None, path),
            (inner, "file", path / "file"),
            (OSError(errno.EIO, "Input/output error"), None, None),
        ):
            with self.assertRaises(OSError) as raised, atomic.whole(path) as beside:
                error.filename = inside and str(beside / inside)
                raise error
            self.assertEqual(raised.exception.filename, expected and str(expected))
        with self.assertRaisesRegex(OSError, "Input/output error: '/read'"), atomic.whole(path):
            raise OSError(errno.EIO, "Input/output error", "/read")

    def test_a_file_in_place_of_a_folder_is_named(self):
        file = self.directory / "file"
        file.touch()
        for path in (file / "x", file / "x" / "y"):
            with self.assertRaises(NotADirectoryError) as raised, atomic.whole(path):
                pass
            self.assertEqual(raised.exception.filename, str(path.parent))

    def test_room_is_reserved_and_given_back(self):
        path = self.directory / "file"
        path.write_text("before")
        atomic.reserve(path, 2**20)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limit[1]))
        with self.assertRaises(OSError) as raised:
            atomic.reserve(path, 2**20)
        self.assertEqual(raised.exception.filename, str(path))
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

    def test_a_folder_is_replaced_where_that_is_asked_for(self):
        path = self.directory / "model"
        for text in ("one", "two"):
            with atomic.whole(path, replaces_folder=True) as beside:
                beside.mkdir()
                (beside / "file").write_text(text)
        self.assertEqual((path / "file").read_text(), "two")
        self.assertEqual([x.name for x in self.directory.iterdir()], ["model"])

    def test_a_folder_that_a_kill_left_without_its_name_gets_it_back(self):
        path = self.directory / "model"
        hidden = self.directory / f".model.{socket.gethostname()}+999999999+ab.earlier.tmp"
        hidden.mkdir()
        (hidden / "file").write_text("one")
        with self.assertRaisesRegex(OSError, "full"):
            with atomic.whole(path, replaces_folder=True):
                raise OSError("full")
        self.assertEqual((path / "file").read_text(), "one")
        self.assertFalse(hidden.exists())


if __name__ == "__main__":
    unittest.main()
