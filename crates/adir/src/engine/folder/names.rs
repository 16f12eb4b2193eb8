//! Names of results: those of the observations, kept apart.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::engine::outputs::Outputs;
use crate::io::image::{BitDepth, ImageFormat, Picture};

/// The output of each file below the folder of results, and all names that are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// In the order of the inputs.
    pub outputs: Vec<PathBuf>,
    taken: HashSet<PathBuf>,
    samples: usize,
}

impl Names {
    /// The names for `files`, paths below their folder, sorted. A file keeps its name. In another `format` it changes its
    /// ending (`a.jpg` becomes `a.png`), unless another file would get the same name: then the ending is added
    /// (`a.jpg.png`). Names of samples (`a.1.png`) and of maps of where they differ (`a.std.png`)
    /// count, too.
    pub fn new(files: &[&str], format: Option<ImageFormat>, samples: usize) -> Self {
        let own = |file: &str| ImageFormat::from_path(Path::new(file)).ok();
        // What is read but not written becomes PNG.
        let of = |file: &str| format.or_else(|| own(file)).unwrap_or(ImageFormat::Png);
        let keeps = |file: &str| own(file) == Some(of(file));
        let wish = |file: &str| match keeps(file) {
            true => PathBuf::from(file),
            false => Path::new(file).with_extension(ending(of(file))),
        };
        let mut wishes: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for file in files {
            *wishes.entry(wish(file)).or_default() += 1;
        }
        let mut names = Self { outputs: vec![PathBuf::new(); files.len()], taken: HashSet::new(), samples };
        // Those that keep their names come first.
        let (first, then): (Vec<usize>, Vec<usize>) = (0..files.len()).partition(|&k| keeps(files[k]));
        for k in first.into_iter().chain(then) {
            let file = files[k];
            let alone = Some(wish(file)).filter(|wish| keeps(file) || wishes[wish] == 1);
            let name = alone.filter(|name| names.is_free(name)).unwrap_or_else(|| names.other(file, of(file)));
            names.taken.extend(names.all(&name));
            names.outputs[k] = name;
        }
        names
    }

    /// A further name for the result of `file`, in a format that can hold it.
    pub fn other(&self, file: &str, format: ImageFormat) -> PathBuf {
        let ending = ending(format);
        let first = PathBuf::from(format!("{file}.{ending}"));
        let more = (2_u64..).map(|k| PathBuf::from(format!("{file}~{k}.{ending}")));
        std::iter::once(first).chain(more).find(|name| self.is_free(name)).unwrap_or_default()
    }

    fn is_free(&self, name: &Path) -> bool {
        self.all(name).iter().all(|path| !self.taken.contains(path))
    }

    fn all(&self, name: &Path) -> Vec<PathBuf> {
        Outputs::new(name, self.samples).pictures().map(Path::to_owned).collect()
    }
}

/// The ending of a format.
fn ending(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpg",
        ImageFormat::WebP => "webp",
        ImageFormat::Tiff => "tif",
        ImageFormat::Fits => "fits",
        ImageFormat::OpenExr => "exr",
        ImageFormat::JpegXl => "jxl",
        ImageFormat::Avif => "avif",
    }
}

/// That format if it can hold what `picture` holds, else one that can.
pub(super) fn holding(picture: &Picture, format: ImageFormat) -> ImageFormat {
    let alpha = format.alpha_fits(picture.alpha.as_deref(), picture.associated_alpha);
    match alpha && format.supports(picture.bit_depth) {
        true => format,
        false if picture.bit_depth == BitDepth::Float || picture.associated_alpha => ImageFormat::Tiff,
        false => ImageFormat::Png,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: &[&str], format: Option<ImageFormat>, samples: usize) -> Vec<String> {
        let names = Names::new(files, format, samples);
        names.outputs.iter().map(|name| name.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn names_are_kept_and_kept_apart() {
        assert_eq!(named(&["a.jpg", "a.png", "b/a.png"], None, 1), ["a.jpg", "a.png", "b/a.png"]);
        let png = Some(ImageFormat::Png);
        assert_eq!(named(&["a.tif", "b.JPG", "c.PNG"], png, 1), ["a.png", "b.png", "c.PNG"]);
        assert_eq!(named(&["a.jpg", "a.png", "b.jpg"], png, 1), ["a.jpg.png", "a.png", "b.png"]);
        assert_eq!(named(&["a.jxl", "b.jxl", "b.png"], None, 1), ["a.png", "b.jxl.png", "b.png"]);
        assert_eq!(named(&["a.jpg", "a.webp"], png, 1), ["a.jpg.png", "a.webp.png"]);
        assert_eq!(named(&["a.jpg", "a.jpg.png", "a.png"], png, 1), ["a.jpg~2.png", "a.jpg.png", "a.png"]);
        // a.1.png is the first of two samples of a.png.
        assert_eq!(named(&["a.1.png", "a.png"], None, 1), ["a.1.png", "a.png"]);
        assert_eq!(named(&["a.1.png", "a.png"], None, 2), ["a.1.png", "a.png.png"]);
        // So are a.std.png and a.heat.png, of a.jpg as of a.png.
        assert_eq!(named(&["a.heat.png", "a.jpg"], None, 2), ["a.heat.png", "a.jpg.jpg"]);
        assert_eq!(named(&["a.jpg", "a.png"], None, 2), ["a.jpg", "a.png.png"]);
    }

    #[test]
    fn a_format_that_cannot_hold_the_result_gives_way() {
        let mut picture =
            Picture::from_tensor(crate::tensor::from_f32(vec![0.0; 4], [1, 1, 2, 2], &crate::tensor::cpu()));
        assert_eq!(holding(&picture, ImageFormat::Png), ImageFormat::Tiff);
        picture.bit_depth = BitDepth::Eight;
        assert_eq!(holding(&picture, ImageFormat::Jpeg), ImageFormat::Jpeg);
        picture.alpha = Some(vec![1.0; 4]);
        assert_eq!(holding(&picture, ImageFormat::Jpeg), ImageFormat::Png);
        assert_eq!(holding(&picture, ImageFormat::WebP), ImageFormat::WebP);
        picture.associated_alpha = true;
        assert_eq!(holding(&picture, ImageFormat::WebP), ImageFormat::Tiff);
    }
}
