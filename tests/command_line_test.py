import unittest

from keras_switch import command_line


def define_flags(flags):
    flags.DEFINE_string("folder", "here", "Where.")
    flags.DEFINE_string("corpus", "", "Text.")
    flags.DEFINE_integer("batch_size", 4, "Rows.", lower_bound=1)
    flags.DEFINE_integer("length", 8, "Tokens.", lower_bound=4)
    flags.DEFINE_float("rate", 0.5, "Rate.", lower_bound=0.0)
    flags.DEFINE_bool("restart", False, "Anew.")
    flags.DEFINE_enum("to", "keras", ["keras", "huggingface"], "Format.")


class CommandLineTest(unittest.TestCase):
    def setUp(self):
        self.values = command_line.define(define_flags)

    def parse(self, *arguments):
        command_line.parse("make", self.values, arguments)
        return self.values

    def test_flags_are_parsed(self):
        values = self.parse("--batch_size", "2", "--rate=1e-3", "--restart", "--to=huggingface")
        self.assertEqual((values.batch_size, values.rate, values.restart), (2, 1e-3, True))
        self.assertEqual((values.folder, values.corpus, values.to), ("here", "", "huggingface"))

    def test_each_mistake_is_named_as_it_was_typed(self):
        for argument, message in (
            ("--batch_size=0", "--batch_size must be a positive integer. Received: --batch_size=0"),
            ("--batch_size=x", "--batch_size must be a positive integer. Received: --batch_size=x"),
            ("--length=3", "--length must be an integer >= 4. Received: --length=3"),
            ("--rate=-1", "--rate must be a non-negative number. Received: --rate=-1"),
            ("--rate=nan", "--rate must be a finite number. Received: --rate=nan"),
            ("--rate=inf", "--rate must be a finite number. Received: --rate=inf"),
            ("--restart=maybe", "--restart must be true or false. Received: --restart=maybe"),
            ("--norestart=1", "--norestart=1 does not take an argument"),
            ("--to=t5x", "--to must be one of keras, huggingface. Received: --to=t5x"),
            ("--folder=", "--folder must be a name that is not empty. Received: --folder="),
            ("--folder", "Missing value for flag --folder"),
            ("--batch-size=1", "Unknown flag: --batch-size. Did you mean --batch_size?"),
            ("--norestrat", "Unknown flag: --norestrat. Did you mean --norestart?"),
            ("--nothing", "Unknown flag: --nothing. See"),
            ("--flagfile=/none", "Unable to open flagfile: [Errno 2] No such file or directory"),
            ("x", "Unexpected argument: 'x'. Everything is given by flags"),
        ):
            with self.subTest(argument), self.assertRaises(command_line.UsageError) as raised:
                self.parse(argument)
            line = str(raised.exception)
            self.assertTrue(line.startswith(f"keras-switch make: {message}"), line)
            self.assertTrue(line.endswith(" See: keras-switch make --help"), line)
            self.assertNotIn("\n", line)

    def test_what_must_be_given_is_asked_for(self):
        values = command_line.define(lambda flags: flags.DEFINE_string("input", None, "Folder."))
        command_line.parse("make", values, [])
        with self.assertRaisesRegex(command_line.UsageError, "--input must be given: Folder. See"):
            command_line.require("make", values, ["input"])
        command_line.parse("make", values, ["--input=x"])
        command_line.require("make", values, ["input"])

    def test_errors_name_flags_where_they_name_arguments(self):
        error = ValueError(
            "`path` and `batch_size` must fit, `dtype` too.\n"
            " Received: path='a', batch_size=2 (was 3), my_length=3, dtype=x"
        )
        self.assertEqual(
            command_line.explain(error, self.parse(), {"path": "corpus"}),
            "--corpus and --batch_size must fit, `dtype` too. Received: --corpus='a', "
            "--batch_size=2 (was 3), my_length=3, dtype=x",
        )

    def test_an_error_of_two_files_names_the_one_to_write(self):
        error = OSError(39, "Directory not empty", "/a/.b.tmp", None, "/a/b")
        self.assertEqual(command_line.explain(error, self.parse(), {}), "/a/b: Directory not empty")

    def test_a_command_may_take_other_arguments(self):
        arguments = ["one", "--batch_size=2", "-", "two", "--", "--restart"]
        rest = command_line.parse("make", self.values, arguments, takes_others=True)
        self.assertEqual(rest, ["one", "-", "two", "--restart"])
        self.assertEqual((self.values.batch_size, self.values.restart), (2, False))


if __name__ == "__main__":
    unittest.main()
