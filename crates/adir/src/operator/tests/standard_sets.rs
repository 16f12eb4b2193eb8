//! Set5 and Set14: the resize must make their small images, and bicubic up-sampling must score what
//! the literature says. Skipped without the images.
//!
//! The small images come from a MATLAB that rounded to 8 bit after shrinking the height, and whose
//! imresize still repeated the edge pixel where today's mirrors. The rounding is done here too, so
//! every pixel but the two at each border, where the kernel of x4 sees the extension, is equal.

use std::path::PathBuf;

use super::*;
use crate::metric::psnr_y;

/// The images of `set` in [-1, 1] as pairs (high resolution, low resolution), where they are.
fn pairs(set: &str) -> Option<Vec<(Tensor<4>, Tensor<4>)>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/eval")).join(set);
    let mut names: Vec<PathBuf> = std::fs::read_dir(&folder).ok()?.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let high = names.iter().filter(|path| path.to_str().is_some_and(|path| path.ends_with("_HR.png")));
    Some(high.map(|path| (open(path), open(&path.to_str().unwrap().replace("_HR", "_LR").into()))).collect())
}

fn open(path: &PathBuf) -> Tensor<4> {
    let image = image::open(path).unwrap();
    let channels = if image.color().has_color() { 3 } else { 1 };
    let (bytes, [height, width]) = match channels {
        3 => (image.to_rgb8().into_raw(), [image.height() as usize, image.width() as usize]),
        _ => (image.to_luma8().into_raw(), [image.height() as usize, image.width() as usize]),
    };
    let values = (0..bytes.len()).map(|n| {
        let (channel, pixel) = (n / (height * width), n % (height * width));
        f64::from(bytes[pixel * channels + channel]) / 127.5 - 1.0
    });
    image_from(values.collect(), ImageShape::new(channels, height, width))
}

fn check(set: &str, count: usize, published: f64) {
    let Some(pairs) = pairs(set) else {
        eprintln!("skipped: no shared/data/eval/{set}");
        return;
    };
    assert_eq!(pairs.len(), count);
    let mut sum = 0.0;
    for (high, low) in &pairs {
        let (shape, small) = (ImageShape::of_batch(high), ImageShape::of_batch(low));
        // In levels, not in [-1, 1]: the weights are multiples of 1/256, so that ties are exact.
        let shorter = rounded(&bicubic_resize(&levels(high), small.height, shape.width).unwrap());
        let made = rounded(&bicubic_resize(&shorter, small.height, small.width).unwrap());
        let inner = |x: &Tensor<4>| values(&x.clone().narrow(2, 2, small.height - 4).narrow(3, 2, small.width - 4));
        let worst = max_difference(&inner(&made), &inner(&levels(low)));
        assert_eq!(worst, 0.0, "{set}, an image of {shape}: levels");

        let operator = BicubicDownsample::new(shape, 4).unwrap().apply(high).unwrap();
        let at_once = bicubic_resize(high, small.height, small.width).unwrap();
        assert_eq!(max_difference(&values(&operator), &values(&at_once)), 0.0);

        sum += psnr_y(&bicubic_upsample(low, 4).unwrap(), high, 4).unwrap()[0];
    }
    let mean = sum / count as f64;
    assert!((mean - published).abs() < 0.02, "{set}: {mean} dB, published {published}");
}

/// From [-1, 1] to the 256 levels.
fn levels(x: &Tensor<4>) -> Tensor<4> {
    rounded(&((x.clone() + 1.0) * 127.5))
}

/// To the nearest of the 256 levels, halves upwards.
fn rounded(x: &Tensor<4>) -> Tensor<4> {
    image_from(values(x).into_iter().map(|v| v.clamp(0.0, 255.0).round()).collect(), ImageShape::of_batch(x))
}

#[test]
fn set5_scores_as_published() {
    check("set5", 5, 28.42);
}

#[test]
fn set14_scores_as_published() {
    check("set14", 14, 26.00);
}
