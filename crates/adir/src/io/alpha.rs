//! Alpha beside the colours, for pictures of another size, and what is said where only the colours count.

use std::path::Path;

use super::image::{ImageFormat, Picture};
use crate::operator::bicubic_resize;
use crate::tensor::{Tensor, cpu, from_f32, to_f32};
use crate::{Error, Result};

impl Picture {
    /// Alpha, h * w values row by row, for a picture of `height` x `width` pixels that shows the same scene `scale` times as
    /// large. What it shows more of the scene at its borders has the alpha of the border, and what it shows less of is cut
    /// off. `None` where there is no alpha.
    ///
    /// # Errors
    /// Those of the operator that brings it to size.
    pub fn alpha_for(&self, height: usize, width: usize, scale: f64) -> Result<Option<Vec<f32>>> {
        let Some(alpha) = &self.alpha else { return Ok(None) };
        let [_, _, h, w] = self.tensor.dims();
        let scaled = |side: usize| ((side as f64 * scale).round() as usize).max(1);
        let mut plane = from_f32(alpha.clone(), [1, 1, h, w], &cpu());
        if scale != 1.0 {
            plane = bicubic_resize(&plane, scaled(h), scaled(w))?;
        }
        let plane = framed(&framed(&plane, 2, height), 3, width);
        Ok(Some(to_f32(&plane)?.into_iter().map(|v| v.clamp(0.0, 1.0)).collect()))
    }

    /// Alpha where it is `known`, and elsewhere that of the nearest known pixel, in steps along rows and columns: what was missing
    /// is as opaque as what is around it. As it is where nothing is known.
    pub(crate) fn alpha_from_known(alpha: &mut [f32], known: &[bool], width: usize) {
        let mut settled = known.to_vec();
        let mut front: Vec<usize> = (0..alpha.len()).filter(|&i| known[i]).collect();
        while !front.is_empty() {
            let mut next = Vec::new();
            for i in front {
                let around = [
                    (i >= width).then(|| i - width),
                    (i % width > 0).then(|| i - 1),
                    (i % width + 1 < width).then(|| i + 1),
                    (i + width < alpha.len()).then(|| i + width),
                ];
                for j in around.into_iter().flatten() {
                    if !std::mem::replace(&mut settled[j], true) {
                        alpha[j] = alpha[i];
                        next.push(j);
                    }
                }
            }
            front = next;
        }
    }

    /// The upper left `height` x `width` pixels of it, colours and alpha.
    #[must_use]
    pub fn upper_left(self, height: usize, width: usize) -> Self {
        let columns = self.tensor.dims()[3];
        let alpha = self.alpha.map(|alpha| {
            let rows = alpha.chunks_exact(columns.max(1)).take(height);
            rows.flat_map(|row| row[..width].iter().copied()).collect()
        });
        Self { tensor: self.tensor.narrow(2, 0, height).narrow(3, 0, width), alpha, ..self }
    }

    /// Refuses a file for a picture with this one's alpha whose format, told by the name, cannot hold that.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file.
    pub fn check_alpha(&self, output: &Path) -> Result<()> {
        let format = ImageFormat::from_path(output)?;
        if format.alpha_fits(self.alpha.as_deref(), self.associated_alpha) {
            return Ok(());
        }
        let message = match format {
            ImageFormat::OpenExr => {
                "the colours of the input are not multiplied by its alpha channel, as they must be here: write .png or \
                 .tif"
            }
            _ if format.holds_alpha() => {
                "the colours of the input are multiplied by its alpha channel, which only .tif and .exr can say"
            }
            _ => "the input has an alpha channel, which this format cannot hold: write .png, .webp or .tif",
        };
        Err(Error::config(format!("{}: {message}", output.display())))
    }

    /// Whether alpha says of a pixel that it is not opaque.
    pub fn is_transparent(&self) -> bool {
        self.alpha.iter().flatten().any(|alpha| *alpha < 1.0)
    }

    /// What a user should know where the colours of the picture are all that counts: its warnings, and that it is
    /// transparent in parts.
    pub fn notes_on_colours(&self) -> Vec<String> {
        let transparent = self.is_transparent().then(|| TRANSPARENT.to_owned());
        self.warnings.iter().cloned().chain(transparent).collect()
    }
}

const TRANSPARENT: &str = "is transparent in parts, which does not count here: its colours are taken as they are";

/// `x` with `length` rows or columns: cut off or continued at both ends.
fn framed(x: &Tensor<4>, dimension: usize, length: usize) -> Tensor<4> {
    let have = x.dims()[dimension];
    if have >= length {
        return x.clone().narrow(dimension, (have - length) / 2, length);
    }
    let before = (length - have) / 2;
    let border = |at: usize, count: usize| x.clone().narrow(dimension, at, 1).repeat_dim(dimension, count);
    let mut parts = vec![x.clone(), border(have - 1, length - have - before)];
    if before > 0 {
        parts.insert(0, border(0, before));
    }
    Tensor::cat(parts, dimension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(alpha: Vec<f32>, height: usize, width: usize) -> Picture {
        let mut picture = Picture::from_tensor(from_f32(vec![0.0; height * width], [1, 1, height, width], &cpu()));
        picture.alpha = Some(alpha);
        picture
    }

    #[test]
    fn alpha_keeps_to_the_scene() {
        let alpha: Vec<f32> = (0..12).map(|i| i as f32 / 16.0).collect();
        let picture = picture(alpha.clone(), 3, 4);
        assert_eq!(picture.alpha_for(3, 4, 1.0).unwrap().unwrap(), alpha);
        // The middle of it, and one pixel more on each side.
        assert_eq!(picture.alpha_for(1, 2, 1.0).unwrap().unwrap(), alpha[5..7]);
        let larger = picture.alpha_for(5, 6, 1.0).unwrap().unwrap();
        assert_eq!((larger[0], larger[7], larger[29]), (alpha[0], alpha[0], alpha[11]));
        assert_eq!(larger[13..17], alpha[4..8]);
        let twice = picture.alpha_for(6, 8, 2.0).unwrap().unwrap();
        assert!(twice.len() == 48 && twice.iter().all(|alpha| (0.0..=1.0).contains(alpha)));
        assert_eq!(Picture::from_tensor(picture.tensor.clone()).alpha_for(3, 4, 1.0).unwrap(), None);
    }

    #[test]
    fn what_was_missing_is_as_opaque_as_what_is_around() {
        let mut alpha = vec![1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.5];
        let known = alpha.iter().map(|alpha| *alpha > 0.0).collect::<Vec<_>>();
        Picture::alpha_from_known(&mut alpha, &known, 4);
        assert_eq!(alpha, [1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5]);
        Picture::alpha_from_known(&mut alpha, &[false; 8], 4);
        assert_eq!(alpha, [1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5]);
    }

    #[test]
    fn a_part_has_its_own_alpha() {
        let part = picture((0..12).map(|i| i as f32).collect(), 3, 4).upper_left(2, 3);
        assert_eq!((part.tensor.dims(), part.alpha), ([1, 1, 2, 3], Some(vec![0.0, 1.0, 2.0, 4.0, 5.0, 6.0])));
    }

    #[test]
    fn opaque_alpha_is_not_worth_a_word() {
        assert!(picture(vec![1.0; 4], 2, 2).notes_on_colours().is_empty());
        let mut transparent = picture(vec![1.0, 1.0, 0.5, 1.0], 2, 2);
        transparent.warnings.push("page 1 of 2 only".into());
        assert_eq!(transparent.notes_on_colours().len(), 2);
    }
}
