//! Rasters turned upright.

use image::metadata::Orientation;

use super::codec::{Raster, Samples};

/// A view of a raster after its orientation is applied.
pub(super) struct Turned {
    orientation: Orientation,
    stored: [usize; 2],
    /// Number of columns, after turning.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Turned {
    pub fn new(orientation: Orientation, width: usize, height: usize) -> Self {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let stored = [width, height];
        match orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => {
                Self { orientation, stored, width: height, height: width }
            }
            _ => Self { orientation, stored, width, height },
        }
    }

    pub fn pixels(&self) -> usize {
        self.width * self.height
    }

    /// The stored pixel that appears at column x, row y.
    fn source(&self, x: usize, y: usize) -> usize {
        let [width, height] = self.stored;
        let (column, row) = match self.orientation {
            Orientation::NoTransforms => (x, y),
            Orientation::FlipHorizontal => (width - 1 - x, y),
            Orientation::Rotate180 => (width - 1 - x, height - 1 - y),
            Orientation::FlipVertical => (x, height - 1 - y),
            Orientation::Rotate90FlipH => (y, x),
            Orientation::Rotate90 => (y, height - 1 - x),
            Orientation::Rotate270FlipH => (width - 1 - y, height - 1 - x),
            Orientation::Rotate270 => (width - 1 - y, x),
        };
        row * width + column
    }

    /// One value for each stored pixel, turned.
    pub fn values<T: Copy>(&self, stored: &[T]) -> Vec<T> {
        let row = |y: usize| (0..self.width).map(move |x| stored[self.source(x, y)]);
        (0..self.height).flat_map(row).collect()
    }

    /// Appends one channel, each sample through `map`.
    pub fn plane(&self, raster: &Raster, channel: usize, map: impl Fn(f32) -> f32, out: &mut Vec<f32>) {
        match &raster.samples {
            Samples::Eight(s) => self.gather(s, raster.channels, channel, |v| map(f32::from(v)), out),
            Samples::Sixteen(s) => self.gather(s, raster.channels, channel, |v| map(f32::from(v)), out),
            Samples::Float(s) => self.gather(s, raster.channels, channel, map, out),
        }
    }

    fn gather<T: Copy>(
        &self,
        samples: &[T],
        channels: usize,
        channel: usize,
        map: impl Fn(T) -> f32,
        out: &mut Vec<f32>,
    ) {
        for y in 0..self.height {
            out.extend((0..self.width).map(|x| map(samples[self.source(x, y) * channels + channel])));
        }
    }
}
