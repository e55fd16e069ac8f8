import unittest

import numpy as np
import tensorflow as tf

from keras_switch.data.shuffled_inputs import shuffle_inputs


class ShuffleInputsTest(unittest.TestCase):
    def test_each_text_gets_the_inputs_of_another_and_keeps_its_targets(self):
        ids = np.arange(12).reshape(4, 3)
        inputs = {name: ids for name in ("encoder_token_ids", "decoder_token_ids")}
        inputs["encoder_padding_mask"] = ids % 2
        dataset = tf.data.Dataset.from_tensor_slices((inputs, ids, np.ones_like(ids))).batch(4)
        [(shuffled, targets, weights)] = shuffle_inputs(dataset).as_numpy_iterator()
        np.testing.assert_array_equal(shuffled["encoder_token_ids"], ids[[3, 0, 1, 2]])
        np.testing.assert_array_equal(shuffled["encoder_padding_mask"], ids[[3, 0, 1, 2]] % 2)
        np.testing.assert_array_equal(shuffled["decoder_token_ids"], ids)
        np.testing.assert_array_equal(targets, ids)
        np.testing.assert_array_equal(weights, 1)


if __name__ == "__main__":
    unittest.main()
