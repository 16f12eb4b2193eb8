//! A tensor's values, as its bytes come by.

use std::ops::Mul;

use half::{bf16, f16};

use crate::gather::Gather;
use crate::weights::{Dtype, Stored};

/// A type that stored values are read as.
pub(crate) trait Element: Copy + Default + Mul<Output = Self> {
    /// Appends the values of whole little-endian elements of type `dtype`.
    fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<Self>);

    /// Whether a network can compute with it.
    fn finite(self) -> bool;
}

impl Element for f32 {
    fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<Self>) {
        match dtype {
            Dtype::F16 => extend(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => extend(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => extend(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Dtype::I8 => extend(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
            _ => extend(bytes, out, f32::from_le_bytes),
        }
    }

    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for f64 {
    fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<Self>) {
        match dtype {
            Dtype::F16 => extend(bytes, out, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => extend(bytes, out, |b| bf16::from_le_bytes(b).to_f64()),
            Dtype::F32 => extend(bytes, out, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::I8 => extend(bytes, out, |b| f64::from(i8::from_le_bytes(b))),
            _ => extend(bytes, out, f64::from_le_bytes),
        }
    }

    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for i64 {
    fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<Self>) {
        match dtype {
            Dtype::I32 => extend(bytes, out, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::I16 => extend(bytes, out, |b| i64::from(i16::from_le_bytes(b))),
            Dtype::I8 => extend(bytes, out, |b| i64::from(i8::from_le_bytes(b))),
            Dtype::U8 => extend(bytes, out, |b| i64::from(u8::from_le_bytes(b))),
            Dtype::Bool => extend(bytes, out, |b| i64::from(u8::from_le_bytes(b) != 0)),
            _ => extend(bytes, out, i64::from_le_bytes),
        }
    }

    fn finite(self) -> bool {
        true
    }
}

/// Appends the values of little-endian elements of N bytes.
fn extend<const N: usize, T>(bytes: &[u8], out: &mut Vec<T>, decode: impl Fn([u8; N]) -> T) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|element| decode(*element)));
}

/// Puts the values of one tensor together from the bytes between its first element and its last.
#[derive(Debug)]
pub(crate) struct Collector<T> {
    dtype: Dtype,
    values: Vec<T>,
    /// For a tensor that is not in row-major order.
    scattered: Option<Scattered<T>>,
}

#[derive(Debug)]
struct Scattered<T> {
    gather: Gather,
    /// Elements that have come by.
    at: u64,
    piece: Vec<T>,
}

impl<T: Element> Collector<T> {
    /// Takes memory for the values of `stored`.
    pub fn new(stored: &Stored) -> Result<Self, String> {
        let count = stored.count();
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| format!("{count} values do not fit in memory"))?;
        let strides = stored.strides.as_ref().filter(|_| count > 0);
        let scattered = strides.map(|strides| {
            values.resize(count, T::default());
            Scattered { gather: Gather::new(&stored.info.shape, strides), at: 0, piece: Vec::new() }
        });
        Ok(Self { dtype: stored.info.dtype, values, scattered })
    }

    /// The next bytes, which are whole elements.
    pub fn take(&mut self, bytes: &[u8]) {
        match &mut self.scattered {
            None => T::decode(self.dtype, bytes, &mut self.values),
            Some(Scattered { gather, at, piece }) => {
                piece.clear();
                T::decode(self.dtype, bytes, piece);
                gather.take(*at, piece, &mut self.values);
                *at += piece.len() as u64;
            }
        }
    }

    /// The next element that is wanted, counted from the tensor's first, while elements are picked out.
    pub fn next(&self) -> Option<u64> {
        self.scattered.as_ref().and_then(|scattered| scattered.gather.next())
    }

    /// Leaves out the elements before `element`.
    pub fn skip_to(&mut self, element: u64) {
        if let Some(scattered) = &mut self.scattered {
            scattered.at = element;
        }
    }

    pub fn finish(self) -> Vec<T> {
        self.values
    }
}
