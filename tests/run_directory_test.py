import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from keras_switch.training import run_directory

# Holds the lock of a directory until it is killed.
HOLD = """
import sys, time
from keras_switch.training import run_directory
with run_directory.lock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


class LockTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.run = self.root / "new" / "run"

    def test_a_lock_is_of_one_and_ends_with_its_block(self):
        for _ in range(2):
            with run_directory.lock(self.run):
                (self.run / "file").touch()
                with self.assertRaisesRegex(ValueError, "A run is at work there. Wait until"):
                    with run_directory.lock(self.run):
                        pass
        self.assertEqual(os.listdir(self.run), ["file"])

    def test_an_error_leaves_no_empty_directory(self):
        with self.assertRaisesRegex(ValueError, "bad"), run_directory.lock(self.run):
            raise ValueError("bad")
        self.assertEqual(os.listdir(self.root), [])
        with self.assertRaisesRegex(ValueError, "bad"), run_directory.lock(self.run):
            (self.run / "file").touch()
            raise ValueError("bad")
        self.assertEqual(os.listdir(self.run), ["file"])

    def test_a_kill_ends_the_lock(self):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(self.run)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.assertEqual(process.stdout.readline(), "locked\n")
        with self.assertRaisesRegex(ValueError, "A run is at work"):
            with run_directory.lock(self.run):
                pass
        process.kill()
        process.communicate()
        self.assertTrue((self.run / run_directory.LOCK).exists())
        with run_directory.lock(self.run):
            pass
        self.assertEqual(os.listdir(self.run), [])

    def test_a_lock_file_that_its_holder_removes_is_not_taken(self):
        with run_directory.lock(self.run):
            (self.run / run_directory.LOCK).unlink()
            with run_directory.lock(self.run):
                pass

    def test_a_file_in_place_of_the_directory_is_named(self):
        file = self.root / "file"
        file.touch()
        with self.assertRaises(NotADirectoryError) as raised, run_directory.lock(file):
            pass
        self.assertEqual(raised.exception.filename, str(file))


class ExportedTest(unittest.TestCase):
    def test_an_export_is_that_of_its_checkpoint(self):
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            path, step = directory / "saved_model" / "1", pathlib.Path("step-1")
            self.assertIsNone(run_directory.exported(directory, step))
            path.mkdir(parents=True)
            run_directory.write_exported(directory, step, path)
            self.assertEqual(run_directory.exported(directory, step), path)
            self.assertIsNone(run_directory.exported(directory, pathlib.Path("step-2")))
            path.rmdir()
            self.assertIsNone(run_directory.exported(directory, step))
            for text in ("", "[]", "{}"):
                (directory / run_directory.EXPORTED).write_text(text)
                self.assertIsNone(run_directory.exported(directory, step))


if __name__ == "__main__":
    unittest.main()
