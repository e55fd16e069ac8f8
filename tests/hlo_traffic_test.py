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
PERMUTE = "collective-permute-start"
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

    def test_what_is_no_tensor_has_no_bytes(self):
        for line in (
            "%t = token[] after-all()",
            "%t = token[] after-all(%u, %w)",
            "%o = opaque[] get-token(%t)",
            "%x = (f32[64]{0}, token[]) opt-barrier(%table, %t)",
            "%r = u32[] replica-id()",
        ):
            self.assertEqual(self.traffic(line), 0, line)
        received = "%r = ((f32[64]{0}, u32[]{:S(6)}), token[]) recv(%t), channel_id=1"
        self.assertEqual(self.traffic(received), 64 * 4)

    def test_every_type_has_its_size(self):
        for dtype, bits in {
            "pred": 8,
            "s2": 2,
            "s4": 4,
            "u4": 4,
            "f4e2m1fn": 4,
            "u8": 8,
            "f8e4m3fn": 8,
            "f8e5m2": 8,
            "f8e4m3b11fnuz": 8,
            "f8e8m0fnu": 8,
            "bf16": 16,
            "f16": 16,
            "s64": 64,
            "c64": 64,
            "c128": 128,
        }.items():
            line = f"%r = {dtype}[16,4]{{1,0:T(8,128)}} iota(), iota_dimension=0"
            self.assertEqual(self.traffic(line), 64 * bits // 8, dtype)

    def test_dynamic_sizes_count_as_their_bounds(self):
        self.assertEqual(self.traffic("%r = s32[<=8]{0} iota(), iota_dimension=0"), 32)
        self.assertEqual(self.traffic("%r = f32[2,<=8]{1,0:T(8,128)} iota()"), 64)

    def test_what_is_started_reads_its_operands_and_writes_its_results(self):
        for result, opcode, num_bytes in (
            ("(bf16[16,16]{1,0}, bf16[64,16]{1,0})", "all-gather-start", 512 + 2048),
            ("(bf16[16,16]{1,0}, bf16[16,16]{1,0}, u32[]{:S(2)}, u32[]{:S(2)})", PERMUTE, 1024),
            ("((bf16[16,16]{1,0}), bf16[16,16]{1,0}, s32[]{:S(2)})", "async-start", 1024),
            ("bf16[16,16]{1,0}", "all-reduce-start", 1024),
        ):
            self.assertEqual(self.traffic(f"%s = {result} {opcode}(%a)"), num_bytes, opcode)
        self.assertEqual(self.traffic("%d = bf16[16,16]{1,0} async-done(%s)"), 0)

    def test_branches_of_a_condition_count(self):
        line = "%c = f32[64] conditional(%p, %x, %y), {}=%{}, {}=%condition"
        roles = "true_computation", "false_computation"
        for role, other in (roles, roles[::-1]):
            self.assertEqual(self.traffic(line.format(role, "body", other)), 256)

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
