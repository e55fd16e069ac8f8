import itertools
import unittest

from keras_switch.tpu.rehearsal import chips


def everywhere(topology):
    return list(itertools.product(*map(range, topology.shape)))


class TopologyTest(unittest.TestCase):
    def test_a_slice_is_read_and_shared_by_its_cores(self):
        for name, shape, num_chips, num_cores in (
            ("v5e:2x4", (2, 4), 8, 8),
            ("v4:2x2x4", (2, 2, 4), 16, 32),
            ("v4:2x2", (2, 2, 1), 4, 8),
            ("v5p:8x8x16", (8, 8, 16), 1024, 1024),
            ("v5p:16x16x24", (16, 16, 24), 6144, 6144),
            ("v3:2x2", (2, 2), 4, 8),
        ):
            topology = chips.Topology(name)
            self.assertEqual(topology.shape, shape)
            self.assertEqual(topology.num_chips, num_chips)
            self.assertEqual(topology.num_cores, num_cores)
        self.assertEqual(repr(topology), "Topology('v3:2x2')")
        v4 = chips.Topology("v4:2x2x1")
        self.assertEqual(v4.flops, 1.375e14)
        self.assertEqual(v4.bandwidth, 6e11)
        self.assertEqual(chips.Topology("v5e:2x4").hbm, 15.75 * 2**30)

    def test_bad_names_are_explained(self):
        for name in ("v5e", "v9:2x2", "v5e:2xx4", "v5e-8", "", None, 8):
            with self.assertRaisesRegex(ValueError, "must name a chip .* Received: topology="):
                chips.Topology(name)
        for name in ("v5e:32x4", "v5e:2x2x2", "v5p:24x24x16", "v5e:0x4"):
            with self.assertRaisesRegex(ValueError, "at most . axes and .* Received: topology="):
                chips.Topology(name)

    def test_axes_close_to_rings_as_google_says(self):
        for name, rings in (
            ("v5e:4x8", (False, False)),
            ("v5e:8x16", (False, True)),
            ("v6e:16x16", (True, True)),
            ("v5p:2x4x8", (False, True, True)),
            ("v4:4x4x12", (True, True, True)),
            ("v3:16x32", (False, True)),
        ):
            self.assertEqual(chips.Topology(name).rings, rings, name)

    def test_larger_slices_double_up_to_the_largest(self):
        names, topology = [], chips.Topology("v5e:2x4")
        while topology:
            names.append(topology.name)
            topology = topology.larger()
        expected = ["v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"]
        self.assertEqual(names, expected)
        self.assertEqual(chips.Topology("v5p:2x2x1").larger().name, "v5p:2x2x2")
        self.assertIsNone(chips.Topology("v5p:16x16x16").larger())


class SecondsTest(unittest.TestCase):
    def test_all_to_all_over_a_slice_is_bound_by_its_bisection(self):
        # Bytes a second and chip: four times the one-way bisection, over the chips.
        for name, rate in (
            ("v4:4x4x4", 9.0e10),
            ("v4:8x8x8", 4.5e10),
            ("v5p:4x4x4", 1.8e11),
            ("v5e:2x4", 4.5e10),
            ("v5e:16x16", 2.25e10),
            ("v6e:2x4", 9e10),
        ):
            topology = chips.Topology(name)
            seconds = topology.seconds("all-to-all", 1000, everywhere(topology))
            self.assertAlmostEqual(seconds, 1000 / rate, msg=name)

    def test_two_cores_of_a_chip_share_its_links(self):
        topology = chips.Topology("v4:4x4x4")
        one = topology.seconds("all-to-all", 1000, everywhere(topology))
        two = topology.seconds("all-to-all", 1000, everywhere(topology) * 2)
        self.assertAlmostEqual(two, 2 * one)
        self.assertEqual(topology.seconds("all-to-all", 1000, [(1, 2, 3)] * 2), 0.0)
        self.assertEqual(topology.seconds("all-reduce", 1000, [(1, 2, 3)] * 2), 0.0)

    def test_a_line_gathers_one_way_and_a_ring_both_ways(self):
        line = [(0, i) for i in range(8)]
        seconds = chips.Topology("v5e:8x8").seconds("all-gather", 8e9, line)
        self.assertAlmostEqual(seconds, 7e9 / 4.5e10)
        ring = [(0, i) for i in range(16)]
        seconds = chips.Topology("v5e:8x16").seconds("all-gather", 16e9, ring)
        self.assertAlmostEqual(seconds, 15e9 / 9e10)

    def test_two_axes_halve_the_time_and_all_reduce_doubles_it(self):
        topology = chips.Topology("v5p:1x4x4")
        seconds = topology.seconds("reduce-scatter", 16e9, everywhere(topology))
        self.assertAlmostEqual(seconds, 15e9 / (2 * 2 * 9e10))
        twice = topology.seconds("all-reduce", 16e9, everywhere(topology))
        self.assertAlmostEqual(twice, 2 * seconds)

    def test_groups_between_each_other_share_the_links(self):
        topology = chips.Topology("v5e:2x4")
        near = topology.seconds("all-gather", 1e9, [(0, 0), (0, 1)])
        far = topology.seconds("all-gather", 1e9, [(0, 0), (0, 2)])
        self.assertAlmostEqual(near, 0.5e9 / 4.5e10)
        self.assertAlmostEqual(far, 1.5 * near)

    def test_a_permutation_takes_one_link(self):
        seconds = chips.Topology("v6e:2x4").seconds("collective-permute", 9e9, [(0, 0), (0, 1)])
        self.assertAlmostEqual(seconds, 0.1)


if __name__ == "__main__":
    unittest.main()
