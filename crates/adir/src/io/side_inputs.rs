//! The small inputs beside an image: masks for inpainting and blur kernels.

use std::io::Read;
use std::path::Path;

use super::codec::{ImageFormat, Raster, Samples};
use super::image::{Reading, decode_file, read_image};
use super::limits::Limits;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Largest kernel written as text, in bytes.
const MAX_KERNEL_TEXT: u64 = 16 << 20;

/// Reads a mask image: white is unknown, to be filled in; black is known.
///
/// Colour counts by the mean of its channels, and from half of white upwards a pixel is unknown. Alpha is
/// ignored.
///
/// # Shapes
/// `[1, 1, h, w]`, each value 0 or 1, on the CPU.
///
/// # Errors
/// As [`read_image`].
pub fn read_mask(path: &Path, limits: &Limits) -> Result<Tensor<4>> {
    let picture = read_image(path, limits)?;
    Ok(picture.tensor.mean_dim(1).greater_equal_elem(0.0).float())
}

/// The values of a blur kernel as its file gives them: not normalised, not centred.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelValues {
    /// Row by row, height * width of them.
    pub values: Vec<f64>,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

/// Reads a blur kernel from an image (grey values from 0 to 1; colour counts by its mean) or from text: one
/// row a line, numbers separated by blanks or commas.
///
/// # Errors
/// [`Error::Input`] if the file is missing or damaged, a number cannot be read or is not finite, or rows
/// differ in length; [`Error::Limits`] if it is too large.
pub fn read_kernel_values(path: &Path, limits: &Limits) -> Result<KernelValues> {
    let cannot = |e: std::io::Error| Error::input(path, format!("cannot be read: {e}"));
    let mut file = super::open_regular(path).map_err(cannot)?;
    let mut start = Vec::new();
    (&mut file).take(12).read_to_end(&mut start).map_err(cannot)?;
    if ImageFormat::from_content(&start).is_some() {
        let raster = decode_file(path, &Reading::default(), limits)?.1.raster;
        let (width, height) = (raster.width as usize, raster.height as usize);
        return Ok(KernelValues { values: grey(&raster), height, width });
    }
    file.take(MAX_KERNEL_TEXT).read_to_end(&mut start).map_err(cannot)?;
    if start.len() as u64 >= MAX_KERNEL_TEXT {
        let most = MAX_KERNEL_TEXT;
        return Err(Error::Limits(format!("{}: the kernel has more than {most} bytes of text", path.display())));
    }
    let text = String::from_utf8(start).map_err(|_| Error::input(path, "is neither an image nor a text file"))?;
    parse_kernel(&text).map_err(|message| Error::input(path, message))
}

fn parse_kernel(text: &str) -> Result<KernelValues, String> {
    let mut kernel = KernelValues { values: Vec::new(), height: 0, width: 0 };
    for (line, row) in text.lines().enumerate() {
        let before = kernel.values.len();
        for word in row.split([',', ' ', '\t', '\r']).filter(|word| !word.is_empty()) {
            let value = word.parse::<f64>().ok().filter(|value| value.is_finite());
            kernel.values.push(value.ok_or_else(|| format!("line {}: {word:?} is not a finite number", line + 1))?);
        }
        let width = kernel.values.len() - before;
        if width == 0 {
            continue;
        }
        if kernel.height > 0 && width != kernel.width {
            return Err(format!("line {}: {width} numbers, but the rows before have {}", line + 1, kernel.width));
        }
        kernel.width = width;
        kernel.height += 1;
    }
    if kernel.height == 0 {
        return Err("contains no numbers".to_owned());
    }
    Ok(kernel)
}

/// The mean of each pixel's colour channels, black 0 to white 1.
fn grey(raster: &Raster) -> Vec<f64> {
    let color = if raster.channels >= 3 { 3 } else { 1 };
    let mean = |pixel: &mut dyn Iterator<Item = f64>, white: f64| pixel.take(color).sum::<f64>() / color as f64 / white;
    let channels = raster.channels;
    match &raster.samples {
        Samples::Eight(s) => s.chunks_exact(channels).map(|p| mean(&mut p.iter().map(|&v| v.into()), 255.0)).collect(),
        Samples::Sixteen(s) => {
            s.chunks_exact(channels).map(|p| mean(&mut p.iter().map(|&v| v.into()), 65535.0)).collect()
        }
        Samples::Float(s) => s.chunks_exact(channels).map(|p| mean(&mut p.iter().map(|&v| v.into()), 1.0)).collect(),
    }
}
