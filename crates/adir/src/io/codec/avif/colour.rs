//! From the planes of an AVIF picture to interleaved samples (ITU-T H.273).

use super::boxes::Fault;
use super::header::Cicp;
use super::planes::Plane;

/// How colours are made of planes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    Grey,
    /// Green, blue and red as they are.
    Identity,
    YCgCo,
    /// Weights of red and of blue in luma.
    Weighted(f64, f64),
}

/// Samples of one depth and range as numbers from 0 to 1.
pub struct Levels(Vec<f64>);

impl Levels {
    pub fn new(depth: u8, full_range: bool) -> Self {
        let most = (1_u32 << depth) - 1;
        let step = f64::from(1_u32 << (depth - 8));
        let level = |value| match full_range {
            true => f64::from(value) / f64::from(most),
            false => (f64::from(value) / step - 16.0) / 219.0,
        };
        Self((0..=most).map(level).collect())
    }

    fn of(&self, sample: u16) -> f64 {
        self.0[usize::from(sample).min(self.0.len() - 1)]
    }
}

/// What makes colours of planes.
pub struct Colours {
    model: Model,
    depth: u8,
    full_range: bool,
    halved: [bool; 2],
    levels: Levels,
}

impl Colours {
    pub fn new(cicp: Cicp, depth: u8, grey: bool, halved: [bool; 2]) -> Result<Self, Fault> {
        let model = match (cicp.matrix, cicp.primaries) {
            _ if grey => Model::Grey,
            (0, _) if halved == [false, false] => Model::Identity,
            (0, _) => return Err("RGB of several resolutions".into()),
            (1, _) | (12, 1) => Model::Weighted(0.2126, 0.0722),
            (2 | 5 | 6, _) => Model::Weighted(0.299, 0.114),
            (4, _) => Model::Weighted(0.30, 0.11),
            (7, _) => Model::Weighted(0.212, 0.087),
            (8, _) => Model::YCgCo,
            (9, _) | (12, 9) => Model::Weighted(0.2627, 0.0593),
            (matrix, _) => return Err(Fault::unsupported(format!("colours by matrix {matrix} of ITU-T H.273"))),
        };
        let full_range = cicp.full_range;
        Ok(Self { model, depth, full_range, halved, levels: Levels::new(depth, full_range) })
    }

    /// The samples of the picture, whose white is `white`; `planes` are those of colour, and alpha has its own levels.
    pub fn interleave<T>(
        &self,
        planes: &[Plane],
        alpha: Option<(&Plane, &Levels)>,
        white: f64,
        sample: impl Fn(f64) -> T,
        samples: &mut Vec<T>,
    ) {
        let stored = |level: f64| sample((level * white + 0.5).clamp(0.0, white));
        let middle = f64::from(1_u32 << (self.depth - 1));
        let range = match self.full_range {
            true => f64::from((1_u32 << self.depth) - 1),
            false => f64::from(224_u32 << (self.depth - 8)),
        };
        let chroma = |sixteenths: u32| (f64::from(sixteenths) / 16.0 - middle) / range;
        let (luma, others) = planes.split_first().expect("luma is always there");
        let mut rows = [vec![0; luma.width], vec![0; luma.width]];
        for y in 0..luma.height {
            let upsampled = !matches!(self.model, Model::Grey | Model::Identity);
            for (plane, row) in others.iter().zip(&mut rows).filter(|_| upsampled) {
                upsample(plane, self.halved, y, row);
            }
            for (x, luma) in luma.row(y).iter().enumerate() {
                let luma = self.levels.of(*luma);
                let colour = match self.model {
                    Model::Grey => [luma; 3],
                    Model::Identity => {
                        let [blue, red] = [0, 1].map(|index: usize| self.levels.of(others[index].row(y)[x]));
                        [red, luma, blue]
                    }
                    Model::YCgCo => {
                        let [green, orange] = [chroma(rows[0][x]), chroma(rows[1][x])];
                        [luma - green + orange, luma + green, luma - green - orange]
                    }
                    Model::Weighted(red, blue) => {
                        let r = luma + 2.0 * (1.0 - red) * chroma(rows[1][x]);
                        let b = luma + 2.0 * (1.0 - blue) * chroma(rows[0][x]);
                        [r, (luma - red * r - blue * b) / (1.0 - red - blue), b]
                    }
                };
                let count = if self.model == Model::Grey { 1 } else { 3 };
                samples.extend(colour[..count].iter().map(|level| stored(*level)));
                samples.extend(alpha.map(|(plane, levels)| stored(levels.of(plane.row(y)[x]))));
            }
        }
    }
}

/// Row `y` of a plane of chroma at the resolution of luma, in sixteenths. A sample of chroma is in the middle of those of
/// luma that it stands for, and between samples it is interpolated along both axes.
fn upsample(plane: &Plane, [columns, rows]: [bool; 2], y: usize, row: &mut [u32]) {
    let neighbours = |at: usize, halved: bool, count: usize| match (halved, at % 2) {
        (false, _) => [at, at],
        (true, 0) => [at / 2, (at / 2).saturating_sub(1)],
        (true, _) => [at / 2, (at / 2 + 1).min(count - 1)],
    };
    let [near, far] = neighbours(y, rows, plane.height).map(|y| plane.row(y));
    let quarters = |x: usize| 3 * u32::from(near[x]) + u32::from(far[x]);
    for (x, sixteenths) in row.iter_mut().enumerate() {
        let [near, far] = neighbours(x, columns, plane.width);
        *sixteenths = 3 * quarters(near) + quarters(far);
    }
}
