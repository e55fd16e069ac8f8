"""How many rows a step of a loop over blocks multiplies, on every backend."""

# Few rows waste less, many fill a matrix unit. The fewest are for experts that share so few rows,
# as those of one generated token; on a CPU one row at a time is slower.
FEWEST_ROWS, SMALLEST_BLOCK, LARGEST_BLOCK = 8, 32, 256


def block_size(num_rows, num_experts):
    """A quarter of an even share of the rows, as a power of two within bounds.

    Args:
        num_rows: int; or anything else where the number is not known.
        num_experts: int.
    """
    if not isinstance(num_rows, int):
        return SMALLEST_BLOCK
    share = num_rows // num_experts
    smallest = SMALLEST_BLOCK if share >= FEWEST_ROWS else FEWEST_ROWS
    return min(max(1 << (share // 4).bit_length(), smallest), LARGEST_BLOCK)
