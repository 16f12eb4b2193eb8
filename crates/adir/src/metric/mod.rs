//! How good a restoration is: against the truth (PSNR, SSIM), against what was measured
//! ([`agreement`]), and against nothing ([`niqe()`]).
//!
//! Two conventions stand side by side because both are published. `*_rgb`: the images rounded to
//! 8 bit, all channels, no crop. `*_y`: luma of the 8-bit images with a border cropped, the
//! convention of super-resolution. Each function returns one value for each image of the batch.

mod luma;
mod niqe;
mod pixels;
mod psnr;
mod ssim;
#[cfg(test)]
mod tests;

pub use niqe::niqe;
pub use psnr::{agreement, psnr_rgb, psnr_y};
pub use ssim::{ssim_rgb, ssim_y};
