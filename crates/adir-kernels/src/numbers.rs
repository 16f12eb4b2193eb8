//! The numbers of a weight in the precision that it is kept in. Half as many bits are widened where they are packed, which
//! reads every number once in any case.

use std::mem::MaybeUninit;

use half::{bf16, f16};

use crate::parallel::{filled, for_each};
use crate::simd::{Kernel, Simd, dispatch};

/// Numbers in a row.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    Single(&'a [f32]),
    Half(&'a [f16]),
    Brain(&'a [bf16]),
}

impl<'a> From<&'a [f32]> for Numbers<'a> {
    fn from(numbers: &'a [f32]) -> Numbers<'a> {
        Numbers::Single(numbers)
    }
}

impl Numbers<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Numbers::Single(numbers) => numbers.len(),
            Numbers::Half(numbers) => numbers.len(),
            Numbers::Brain(numbers) => numbers.len(),
        }
    }

    /// The number at that place.
    pub(crate) fn get(self, place: usize) -> f32 {
        match self {
            Numbers::Single(numbers) => numbers[place],
            Numbers::Half(numbers) => of_half(numbers[place].to_bits()),
            Numbers::Brain(numbers) => of_brain(numbers[place].to_bits()),
        }
    }

    /// `rows` lines of `columns` numbers from `first` on, `pitch` apart: where they lie, or widened one behind the other in
    /// `room`. Returns where, and how far apart they are there.
    #[inline(always)]
    pub(crate) fn lines<const N: usize>(
        self,
        first: usize,
        pitch: usize,
        [rows, columns]: [usize; 2],
        room: &mut MaybeUninit<[f32; N]>,
    ) -> (*const f32, usize) {
        assert!(
            rows * columns <= N && first + rows.saturating_sub(1) * pitch + columns <= self.len(),
            "lines of a weight"
        );
        let to: *mut f32 = room.as_mut_ptr().cast();
        // SAFETY: rows and columns fit into the room and lie inside the numbers.
        unsafe {
            match self {
                Numbers::Single(numbers) => return (numbers.as_ptr().add(first), pitch),
                Numbers::Half(numbers) => copy(numbers.as_ptr().cast(), first, pitch, [rows, columns], to, of_half),
                Numbers::Brain(numbers) => copy(numbers.as_ptr().cast(), first, pitch, [rows, columns], to, of_brain),
            }
        }
        (to, columns)
    }
}

/// # Safety
/// The lines must be inside both buffers.
#[inline(always)]
unsafe fn copy(
    from: *const u16,
    first: usize,
    pitch: usize,
    [rows, columns]: [usize; 2],
    to: *mut f32,
    widen: impl Fn(u16) -> f32,
) {
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: the caller's promise.
            unsafe { *to.add(row * columns + column) = widen(*from.add(first + row * pitch + column)) };
        }
    }
}

#[inline(always)]
fn of_brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Without branches, so that loops become vectors.
#[inline(always)]
fn of_half(bits: u16) -> f32 {
    const REBIASED: u32 = (127 - 15) << 23;
    const LEAST: u32 = REBIASED + (1 << 23);
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let exponent = bits & 0x7c00;
    let subnormal = f32::from_bits(magnitude + LEAST) - f32::from_bits(LEAST);
    let more = if exponent == 0x7c00 { REBIASED } else { 0 };
    let normal = magnitude + REBIASED + more;
    f32::from_bits(sign | if exponent == 0 { subnormal.to_bits() } else { normal })
}

/// All of them in single precision.
pub(crate) fn widened(numbers: Numbers<'_>) -> Vec<f32> {
    /// Numbers of a task.
    const TASK: usize = 1 << 14;
    let len = numbers.len();
    // SAFETY: the tasks cover all numbers.
    unsafe {
        filled(len, |out| {
            for_each(len.div_ceil(TASK), |task| {
                let first = task * TASK;
                let count = TASK.min(len - first);
                dispatch(Widen { numbers, first, count, to: out.add(first) });
            });
        })
    }
}

struct Widen<'a> {
    numbers: Numbers<'a>,
    first: usize,
    count: usize,
    to: *mut f32,
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Widen { numbers, first, count, to } = self;
        // SAFETY: whoever made it keeps the task inside both.
        unsafe {
            match numbers {
                Numbers::Single(from) => to.copy_from_nonoverlapping(from[first..first + count].as_ptr(), count),
                Numbers::Half(from) => copy(from.as_ptr().cast(), first, 0, [1, count], to, of_half),
                Numbers::Brain(from) => copy(from.as_ptr().cast(), first, 0, [1, count], to, of_brain),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 65,536 patterns, in any order of tasks.
    #[test]
    fn every_pattern_is_widened_as_the_half_crate_does() {
        let patterns: Vec<u16> = (0..=u16::MAX).collect();
        let halves: Vec<f16> = patterns.iter().map(|&bits| f16::from_bits(bits)).collect();
        let brains: Vec<bf16> = patterns.iter().map(|&bits| bf16::from_bits(bits)).collect();
        let same =
            |found: f32, expected: f32| found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        for (i, found) in widened(Numbers::Half(&halves)).into_iter().enumerate() {
            assert!(same(found, halves[i].to_f32()), "{i:#x}: {found}");
        }
        for (i, found) in widened(Numbers::Brain(&brains)).into_iter().enumerate() {
            assert!(same(found, brains[i].to_f32()), "{i:#x}: {found}");
        }
    }
}
