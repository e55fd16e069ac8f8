import unittest

from keras_switch.tpu.rehearsal import hlo

# As libtpu writes them, shortened.
PROGRAM = """\
HloModule jit_f, is_scheduled=true, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%async_collective_fusion.1 (param_0: s32[1,4]) -> s32[1,16] {
  ROOT %all-gather.21 = s32[1,16]{1,0:T(1,128)} all-gather(%param_0), channel_id=1, \
replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="0"}
}

%async_collective_fusion.2 (param_0: s32[1,4]) -> s32[1,16] {
  ROOT %all-gather.23 = s32[1,16]{1,0:T(1,128)S(1)} all-gather(%param_0), channel_id=1, \
replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.7 (input: bf16[8,16]) -> bf16[2,16] {
  %all-reduce.9 = bf16[8,16]{1,0} all-reduce(%input), channel_id=3, \
replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = bf16[2,16]{1,0} dynamic-slice(%all-reduce.9, %a, %b), dynamic_slice_sizes={2,16}
}

%body.3 (state: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %all-to-all.1 = f32[2,8]{1,0:T(8,128)S(1)} all-to-all(%state), channel_id=1, \
replica_groups={{0,2},{1,3}}, dimensions={0}
  ROOT %tuple = (s32[], f32[2,8]) tuple(%i, %all-to-all.1)
}

%condition.3 (state: (s32[], f32[2,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.5_spmd (a: f32[2,8]) -> f32[2,8] {
  %all-to-all.2 = bf16[4,64]{1,0:T(8,128)(2,1)} all-to-all(%a), channel_id=1, \
replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}
  %all-reduce-start.4 = (f32[8]{0}, bf16[4,4]{1,0}) all-reduce-start(%a, %b), channel_id=1, \
replica_groups={}, to_apply=%add
  %done = (f32[8]{0}, bf16[4,4]{1,0}) all-reduce-done(%all-reduce-start.4)
  %all-gather-start = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), channel_id=2, \
replica_groups={{0,1,2,3}}, dimensions={0}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %scatter = f32[32,512]{1,0} reduce-scatter(%a), channel_id=1, replica_groups={{0,1},{2,3}}, \
dimensions={0}, to_apply=%add
  %fusion.1 = s32[1,16] fusion(%a), kind=kCustom, calls=%async_collective_fusion.1
  %fusion.2 = s32[1,16] fusion(%a), kind=kCustom, calls=%async_collective_fusion.2
  %fusion.3 = bf16[2,16] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.7
  %permute = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[], u32[]) collective-permute-start(%a), \
channel_id=1, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  ROOT %while = (s32[], f32[2,8]) while(%a), condition=%condition.3, body=%body.3, \
backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0"}}
}
"""


class CollectivesTest(unittest.TestCase):
    def test_each_kind_is_counted_once_with_its_size(self):
        found = {(x.kind, x.dtype): x for x in hlo.collectives(PROGRAM, 4)}
        everyone, columns = ((0, 1, 2, 3),), ((0, 2), (1, 3))
        for kind, dtype, num_bytes, groups, count in (
            ("all-to-all", "bf16", 4 * 64 * 2, columns, 1),
            ("all-to-all", "f32", 2 * 8 * 4, columns, 5),
            ("all-gather", "s32", 16 * 4, everyone, 1),
            ("all-gather", "f32", 32 * 4, everyone, 1),
            ("all-reduce", "f32+bf16", 8 * 4 + 16 * 2, everyone, 1),
            ("reduce-scatter", "f32", 2 * 32 * 512 * 4, ((0, 1), (2, 3)), 1),
            ("reduce-scatter", "bf16", 8 * 16 * 2, everyone, 1),
            ("collective-permute", "f32", 2 * 4 * 4, ((0, 1), (1, 0), (2, 3), (3, 2)), 1),
        ):
            expected = hlo.Collective(kind, dtype, num_bytes, groups, count)
            self.assertEqual(found.pop((kind, dtype)), expected)
        self.assertEqual(found, {})

    def test_the_largest_come_first_and_equal_ones_are_one_row(self):
        twice = PROGRAM.replace(
            "  %done",
            "  %all-to-all.9 = bf16[4,64]{1,0} all-to-all(%a), \
channel_id=1, replica_groups={{0,2},{1,3}}, dimensions={0}\n  %done",
        )
        rows = hlo.collectives(twice, 4)
        self.assertEqual(rows[0].kind, "reduce-scatter")
        self.assertEqual(rows[1], hlo.Collective("all-to-all", "bf16", 512, ((0, 2), (1, 3)), 2))

    def test_dynamic_sizes_and_small_types(self):
        line = "  %a = (s4[<=8,3], token[]) all-to-all(%b, %t), replica_groups={{0,1}}\n"
        (one,) = hlo.collectives("ENTRY %main (a: f32[]) -> f32[] {\n" + line + "}\n", 2)
        self.assertEqual((one.dtype, one.bytes), ("s4+token", 12))

    def test_a_program_of_one_core_has_none(self):
        self.assertEqual(hlo.collectives("ENTRY %main () -> f32[] {\n  ROOT %x = f32[]\n}", 1), [])


class ReplicaGroupsTest(unittest.TestCase):
    def test_all_ways_of_writing_are_read(self):
        for text, groups in (
            ("{{0,1},{2,3}}, dimensions={0}", ((0, 1), (2, 3))),
            ("{}, to_apply=%add", ((0, 1, 2, 3),)),
            ("[2,2]<=[4], channel_id=1", ((0, 1), (2, 3))),
            ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
            ("mesh['axis_0'=4] {'axis_0'}, x", ((0, 1, 2, 3),)),
            ("mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
            ("mesh['a'=2,'b'=2] {'b','a'}", ((0, 2, 1, 3),)),
            ("mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
            ("mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
            ("mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", ((3, 2), (1, 0))),
            ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ):
            self.assertEqual(hlo.replica_groups(text, 4), groups, text)

    def test_the_parts_of_an_axis_keep_their_order(self):
        groups = hlo.replica_groups("mesh['a'=8] {'a':(4)2,'a':(1)2}", 8)
        self.assertEqual(groups, ((0, 4, 1, 5), (2, 6, 3, 7)))

    def test_something_else_is_refused(self):
        with self.assertRaisesRegex(ValueError, "cannot be read. Received: 'ring'"):
            hlo.replica_groups("ring", 4)


if __name__ == "__main__":
    unittest.main()
