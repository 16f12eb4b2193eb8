//! A metric from outside the crate beside the standard ones: how far gradients are from those of the truth.
//!
//! `cargo run --release -p adir --example own_metric`

use adir::metric::{Better, Case, Metric, Needs, standard};
use adir::operator::{Degradation, ImageShape, bicubic_upsample};
use adir::tensor::{Tensor, cpu, from_f32, to_f64};
use adir::{Error, Result};

/// Mean absolute error of the differences between neighbouring pixels: it sees lost edges and invented ones, and no
/// change of brightness.
#[derive(Debug)]
struct GradientError;

impl Metric for GradientError {
    fn name(&self) -> &str {
        "gradient_mae"
    }

    fn describe(&self) -> &str {
        "0 to 510 grey levels; mean absolute error of horizontal and vertical differences, from 2x2 pixels on"
    }

    fn better(&self) -> Better {
        Better::Lower
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn unit(&self) -> &str {
        "grey levels"
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        let [n, channels, height, width] = truth.dims();
        if (case.restored.dims(), n) != ([1, channels, height, width], 1) {
            return Err(Error::config(format!("{:?} against {:?}", case.restored.dims(), truth.dims())));
        }
        if height < 2 || width < 2 {
            return Ok(None);
        }
        // Differences are linear: those of the error are the error of those.
        let error = to_f64(&((case.restored.clone() - truth.clone()) * 127.5))?;
        let (mut sum, mut count) = (0.0, 0.0);
        for plane in error.chunks(height * width) {
            let right = plane.chunks(width).flat_map(|line| line.windows(2).map(|pair| pair[1] - pair[0]));
            let down = plane.iter().zip(&plane[width..]).map(|(above, below)| below - above);
            for difference in right.chain(down) {
                sum += difference.abs();
                count += 1.0;
            }
        }
        Ok(Some(sum / count))
    }
}

/// Stripes that grow finer to the right on a bright ground, 64x64 pixels.
fn picture() -> Tensor<4> {
    let side = 64;
    let stripes = |n: usize| {
        let (x, y, channel) = (n % side, n / side % side, n / (side * side));
        0.6 * ((x * x) as f32 / 60.0 + y as f32 / 9.0).sin() + 0.1 * channel as f32
    };
    from_f32((0..3 * side * side).map(stripes).collect(), [1, 3, side, side], &cpu())
}

fn main() -> Result<()> {
    let truth = picture();
    let operator = Degradation::SuperResolution { factor: 2 }.build(ImageShape::of_batch(&truth), None)?;
    let y = operator.apply(&truth)?;
    let enlarged = bicubic_upsample(&y, 2)?;
    let brighter = truth.clone() + 0.1;

    let mut metrics = standard();
    metrics.push(Box::new(GradientError));
    println!("{:<16} {:>10} {:>10}  better", "metric", "enlarged", "brighter");
    for metric in &metrics {
        let shown = |restored: &Tensor<4>| -> Result<String> {
            let case = Case::new(restored).with_truth(&truth).with_observation(operator.as_ref(), &y).with_border(2);
            Ok(metric.value(&case)?.map_or_else(|| "-".into(), |v| format!("{v:.*}", metric.digits())))
        };
        println!("{:<16} {:>10} {:>10}  {}", metric.name(), shown(&enlarged)?, shown(&brighter)?, metric.better());
    }
    Ok(())
}
