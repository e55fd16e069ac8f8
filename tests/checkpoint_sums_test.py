import errno
import os
import pathlib
import tempfile
import unittest
import unittest.mock

from keras_switch import atomic
from keras_switch.training import checkpoint_sums

FILES = ("model", "state")


class CheckpointSumsTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def make(self, name):
        folder = self.root / name
        folder.mkdir()
        for file in FILES:
            (folder / file).write_bytes(bytes(range(256)) * 16)
        checkpoint_sums.write(folder, FILES)
        return folder

    def test_every_kind_of_damage_is_noticed(self):
        def flip(path):
            content = bytearray(path.read_bytes())
            content[1000] ^= 1
            path.write_bytes(content)

        for number, (name, damage, words) in enumerate(
            (
                ("model", flip, "is not what was written"),
                ("model", lambda path: os.truncate(path, 1000), "is not what was written"),
                ("state", lambda path: os.truncate(path, 0), "is not what was written"),
                ("state", pathlib.Path.unlink, "is missing"),
                (checkpoint_sums.NAME, pathlib.Path.unlink, "is missing"),
            )
        ):
            folder = self.make(f"step-{number}")
            self.assertIsNone(checkpoint_sums.damage(folder, FILES))
            damage(folder / name)
            self.assertEqual(checkpoint_sums.damage(folder, FILES), f"{folder / name} {words}")

    def test_damaged_sums_make_a_checkpoint_damaged(self):
        folder = self.make("step")
        (folder / checkpoint_sums.NAME).write_bytes(b"\xff\n")
        self.assertEqual(
            checkpoint_sums.damage(folder, FILES), f"{folder / 'model'} is not what was written"
        )

    def test_a_bad_disk_is_damage_and_a_lack_of_rights_is_not(self):
        folder = self.make("step")
        for error, expected in (
            (errno.EIO, f"a file in {folder} cannot be read"),
            (errno.EACCES, None),
        ):
            with unittest.mock.patch.object(atomic, "sha256", side_effect=OSError(error, "no")):
                if expected:
                    self.assertEqual(checkpoint_sums.damage(folder, FILES), expected)
                else:
                    with self.assertRaises(PermissionError):
                        checkpoint_sums.damage(folder, FILES)

    def test_damaged_ones_are_set_aside_up_to_a_whole_one(self):
        folders = [self.make(f"step-{number}") for number in range(4)]
        for number in (0, 2, 3):
            (folders[number] / "model").write_text("")
        for _ in range(2):
            lines = checkpoint_sums.set_damaged_aside(folders, FILES)
            self.assertEqual(
                lines,
                [
                    f"A checkpoint is damaged, and now called damaged-step-{number}: "
                    f"{folders[number] / 'model'} is not what was written."
                    for number in (3, 2)
                ]
                + ["The newest whole checkpoint is step-1."],
            )
            names = ["damaged-step-2", "damaged-step-3", "step-0", "step-1"]
            self.assertEqual(sorted(os.listdir(self.root)), names)
            self.assertEqual(checkpoint_sums.set_damaged_aside(folders[:2], FILES), [])
            for number in (2, 3):
                (self.make(f"step-{number}") / "model").write_text("")

    def test_without_a_whole_one_it_says_so(self):
        folder = self.make("step")
        (folder / "state").unlink()
        lines = checkpoint_sums.set_damaged_aside([folder], FILES)
        self.assertEqual(lines[1:], ["No whole checkpoint is left."])


if __name__ == "__main__":
    unittest.main()
