import unittest

from keras_switch.tpu.rehearsal import hlo_traffic

# `S(1)` is the vector memory of the core.
PROGRAM = """\
HloModule jit_f, is_scheduled=true

%fused_lookup (table: f32[1000,8], row: s32[]) -> f32[1,8] {
  %table = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %row = s32[] parameter(1)
  ROOT %taken = f32[1,8]{1,0} dynamic-slice(%table, %row, %row), dynamic_slice_sizes={1,8}
}

%fused_update (cache: f32[1000,8], new: f32[1,8], row: s32[]) -> f32[1000,8] {
  %cache = f32[1000,8]{1,0} parameter(0)
  %new = f32[1,8]{1,0} parameter(1)
  %row = s32[] parameter(2)
  ROOT %updated = f32[1000,8]{1,0} dynamic-update-slice(%cache, %new, %row, %row)
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state = (s32[], f32[64]{0}) parameter(0)
  %x = f32[64]{0} get-tuple-element(%state), index=1
  %y = f32[64]{0:T(128)S(1)} negate(%x)
  ROOT %next = (s32[], f32[64]{0}) tuple(%i, %y)
}

%condition (state: (s32[], f32[64])) -> pred[] {
  %state = (s32[], f32[64]{0}) parameter(0)
  ROOT %less = pred[]{:S(6)} compare(%i, %n), direction=LT
}

ENTRY %main (a: bf16[16,16]) -> bf16[16,16] {
%LINES%
}
"""
PARAMETERS = """\
  %a = bf16[16,16]{1,0:T(8,128)(2,1)} parameter(0)
  %v = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} copy(%b)
  %table = f32[1000,8]{1,0} parameter(1)
  %row = s32[]{:S(6)} parameter(2)
  %new = f32[1,8]{1,0} parameter(3)
"""


class TrafficTest(unittest.TestCase):
    def traffic(self, line):
        return hlo_traffic.traffic(PROGRAM.replace("%LINES%", PARAMETERS + "  " + line))

    def test_only_what_lies_in_the_memory_counts(self):
        for line, num_bytes in (
            ("%c = bf16[16,16]{1,0} add(%a, %a)", 3 * 512),
            ("%c = bf16[16,16]{1,0} add(%a, %v)", 2 * 512),
            ("%c = bf16[16,16]{1,0:T(8,128)S(1)} add(%v, %v)", 0),
            ("ROOT %c = (bf16[16,16]{1,0}, f32[4]{0:S(1)}) fusion(%v), kind=kLoop", 512),
        ):
            self.assertEqual(self.traffic(line), num_bytes, line)

    def test_what_moves_nothing_is_free(self):
        for line in (
            "%c = bf16[256]{0} bitcast(%a)",
            "%c = (bf16[16,16]{1,0}, bf16[16,16]{1,0}) tuple(%a, %a)",
            '%c = bf16[16,16]{1,0} custom-call(%a), custom_call_target="ConcatBitcast"',
            "%c = bf16[16,16]{1,0} copy-done(%a)",
        ):
            self.assertEqual(self.traffic(line), 0, line)

    def test_a_kernel_of_ones_own_is_not(self):
        line = '%c = bf16[16,16]{1,0} custom-call(%a), custom_call_target="tpu_custom_call"'
        self.assertEqual(self.traffic(line), 2 * 512)

    def test_copies_count_the_ends_that_lie_in_the_memory(self):
        result = "(bf16[16,16]{1,0:T(8,128)S(1)}, bf16[16,16]{1,0}, u32[]{:S(2)})"
        self.assertEqual(self.traffic(f"%c = {result} copy-start(%a)"), 512)
        result = "((f32[1000,8]{1,0}), f32[10,8]{1,0:S(1)}, s32[]{:S(2)})"
        self.assertEqual(self.traffic(f"%c = {result} slice-start(%table)"), 320)

    def test_slices_count_what_they_take(self):
        line = "%c = f32[1,8]{1,0} dynamic-slice(%table, %row, %row)"
        self.assertEqual(self.traffic(line), 2 * 32)
        line = "%c = f32[1,8]{1,0:S(1)} fusion(%table, %row), kind=kLoop, calls=%fused_lookup"
        self.assertEqual(self.traffic(line), 32)

    def test_updates_count_what_they_change(self):
        line = "%c = f32[1000,8]{1,0} dynamic-update-slice(%table, %new, %row, %row)"
        self.assertEqual(self.traffic(line), 32 + 2 * 32)
        line = "%c = f32[1000,8]{1,0} fusion(%table, %new, %row), calls=%fused_update"
        self.assertEqual(self.traffic(line), 32 + 32)

    def test_loops_count_as_often_as_they_run(self):
        line = "%c = (s32[], f32[64]{0}) while(%a), condition=%condition, body=%body"
        self.assertEqual(self.traffic(line), 256)
        line += ', backend_config={"known_trip_count":{"n":"7"}}'
        self.assertEqual(self.traffic(line), 7 * 256)


if __name__ == "__main__":
    unittest.main()
