//! What a user should know of an observation and its output before anything is computed.

use super::folder::label;
use super::plan::Plan;
use crate::Result;
use crate::io::image::{BitDepth, ImageFormat, Picture, first_of};
use crate::sampler::Start;
use crate::tensor;

/// Largest values of data of 10 and 12 bits.
const FEWER_BITS: [f32; 2] = [1023.0, 4095.0];

/// Said of observations whose format of results is coarser: those of 16 bits, and floats. Of a folder it is said once.
pub(super) const ROUNDED: [&str; 2] = [
    "results are rounded to 8 bits, and their observations are finer: .png and .tif keep 16 bits",
    "results are rounded to 8 bits, and their observations are finer: .tif, .fits and .exr keep floats",
];

/// The warnings of a plan.
pub(super) fn warnings(plan: &Plan) -> Result<Vec<String>> {
    let name = plan.file.as_ref().map_or("the observation".into(), |file| file.display().to_string());
    let name = label(&name, plan.request.reading.page);
    let mut warnings: Vec<String> = of_reading(&plan.picture).map(|text| format!("{name}: {text}")).collect();
    warnings.extend_from_slice(plan.restore.measurement().warnings());
    warnings.extend(bits(plan)?.map(|text| format!("{name}: {text}")));
    if let Some([least, most]) = plan.restore().measurement().beyond_range()? {
        let clipped = plan.restore().settings().stages.iter().any(|stage| stage.clip_x0);
        let what =
            if clipped { "are lost, because estimates are clipped" } else { "are kept: estimates are not clipped" };
        warnings
            .push(format!("{name}: values from {least:.4} to {most:.4} lie beyond black (0) and white (1) and {what}"));
        if plan.outputs().is_some() && !clipped && plan.depth() != BitDepth::Float {
            // Whole numbers reach beyond a white that was named.
            let depth = plan.depth().scale();
            let [lowest, highest] = plan.picture.scale.unwrap_or(depth).bounds(plan.depth());
            if plan.picture.bit_depth == BitDepth::Float {
                warnings.push(format!(
                    "{name}: values beyond black and white are cut off in the result; .tif, .fits and .exr keep them"
                ));
            } else if least < lowest || most > highest {
                let most = depth.white;
                warnings.push(format!("{name}: values below 0 and above {most} are cut off in the result"));
            }
        }
    }
    let (samples, stages) = (plan.request.sampling.samples, &plan.restore.settings().stages);
    if samples > 1 && stages.iter().all(|stage| stage.start == Start::Noisy) {
        warnings.push(format!(
            "{name}: the {samples} samples will be the same, because one evaluation leaves nothing to chance; --aim above 0 \
             makes different ones"
        ));
    }
    if plan.depth() == BitDepth::Eight {
        let [sixteen, float] = ROUNDED;
        match plan.picture.bit_depth {
            BitDepth::Eight => {}
            BitDepth::Sixteen => warnings.push(sixteen.into()),
            BitDepth::Float => warnings.push(float.into()),
        }
    }
    if let Some(outputs) = plan.outputs() {
        let format = ImageFormat::from_path(&outputs.image)?;
        let (_, lost) = plan.metadata().fitted(format, plan.restore().measurement().result().channels);
        if !lost.is_empty() {
            warnings.push(format!("{name}: not carried over to the result: {}", lost.join(", ")));
        }
    }
    Ok(warnings)
}

/// What was unusual about the file of an observation, and what can be done about it.
pub(super) fn of_reading(picture: &Picture) -> impl Iterator<Item = String> {
    let first = first_of(picture.pages);
    picture.warnings.iter().map(move |text| match *text == first {
        true => format!("{text}; --page N takes another, --page all every one"),
        false => text.clone(),
    })
}

/// Whether 16 bits seem to hold fewer.
fn bits(plan: &Plan) -> Result<Option<String>> {
    let picture = &plan.picture;
    if picture.bit_depth != BitDepth::Sixteen || picture.scale.is_some() || plan.request().reading.white.is_some() {
        return Ok(None);
    }
    let most = tensor::to_f32(&picture.tensor)?.into_iter().fold(-1.0_f32, f32::max);
    let most = ((most + 1.0) / 2.0 * 65535.0).round();
    let white = FEWER_BITS.into_iter().find(|white| most > 0.0 && most <= *white);
    Ok(white.map(|white| format!("no value exceeds {most} of 65535; if {white} is white, give --white {white}")))
}
