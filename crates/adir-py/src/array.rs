//! Arrays between Python and the library: bytes in C order, a type and a shape.

use adir::engine::Request;
use adir::io::image::{Picture, Samples};
use adir::tensor::{Tensor, cpu, from_f32, to_f32};
use adir::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The bytes of an array, its type and its shape, as Python takes them.
pub type Array<'py> = (Bound<'py, PyBytes>, &'static str, [usize; 3]);

/// A picture of the samples of an array `[h, w, c]`, read as the request says.
pub fn picture(bytes: &[u8], kind: &str, shape: [usize; 3], request: &Request) -> Result<Picture> {
    let samples = match kind {
        "uint8" => Samples::Eight(bytes.to_vec()),
        "uint16" => Samples::Sixteen(numbers(bytes, u16::from_ne_bytes)?),
        "float32" => Samples::Float(numbers(bytes, f32::from_ne_bytes)?),
        _ => return Err(Error::Config(format!("an array of {kind}: expected uint8, uint16 or float32"))),
    };
    Picture::from_samples(samples, shape, &request.reading)
}

/// The samples of a picture.
pub fn samples<'py>(py: Python<'py>, picture: &Picture) -> Result<Array<'py>> {
    let (samples, shape) = picture.samples()?;
    Ok(match samples {
        Samples::Eight(values) => (PyBytes::new(py, &values), "uint8", shape),
        Samples::Sixteen(values) => (bytes(py, &values, |v| v.to_ne_bytes()), "uint16", shape),
        Samples::Float(values) => (bytes(py, &values, |v| v.to_ne_bytes()), "float32", shape),
    })
}

/// A tensor of the 32-bit floats of an array `[n, c, h, w]`.
pub fn tensor(bytes: &[u8], shape: [usize; 4]) -> Result<Tensor<4>> {
    let values = numbers(bytes, f32::from_ne_bytes)?;
    let count = shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
    if count != Some(values.len()) {
        return Err(Error::Config(format!("{} values do not make the shape {shape:?}", values.len())));
    }
    Ok(from_f32(values, shape, &cpu()))
}

/// The values of a tensor as 32-bit floats.
pub fn floats<'py>(py: Python<'py>, tensor: &Tensor<4>) -> Result<Bound<'py, PyBytes>> {
    Ok(bytes(py, &to_f32(tensor)?, |v| v.to_ne_bytes()))
}

fn numbers<T, const N: usize>(bytes: &[u8], number: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let (chunks, []) = bytes.as_chunks::<N>() else {
        return Err(Error::Config(format!("{} bytes are no numbers of {N} bytes", bytes.len())));
    };
    Ok(chunks.iter().map(|chunk| number(*chunk)).collect())
}

fn bytes<'py, T: Copy, const N: usize>(py: Python<'py>, values: &[T], number: fn(T) -> [u8; N]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &values.iter().flat_map(|value| number(*value)).collect::<Vec<u8>>())
}
