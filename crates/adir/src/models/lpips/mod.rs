//! Learned perceptual distances: LPIPS (Zhang et al., arXiv 1801.03924) and its shift-tolerant form ST-LPIPS (Ghildyal and
//! Liu, arXiv 2207.13686), with AlexNet or VGG-16.

mod net;

use std::path::Path;

use self::net::{Net, Trunk};
use crate::io::weights::WeightFile;
use crate::models::load::values;
use crate::models::params::{ParamSpec, Params};
use crate::operator::ImageShape;
use crate::tensor::{Compute, DType, Device, Tensor, to_f32};
use crate::{Error, Result};

/// A network that tells how different two pictures look.
#[derive(Debug)]
pub struct Lpips {
    net: Net,
    params: Params,
    device: Device,
    weights: String,
}

impl Lpips {
    /// The network of a weight file (PyTorch's or safetensors) that holds trunk and weights of the taps: the state of
    /// `lpips.LPIPS` or of `stlpips_pytorch`'s `LPIPS`. Which of the four it is follows from the names.
    ///
    /// # Errors
    /// [`Error::Model`] if it is none of them, or a tensor is missing, misshapen or not finite.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::load(&WeightFile::open(path)?, device)
    }

    /// As [`Lpips::open`], from an open file.
    ///
    /// # Errors
    /// As [`Lpips::open`].
    pub fn load(file: &WeightFile, device: &Device) -> Result<Self> {
        let is_it = |net: &Net| net.layout().specs().iter().all(|spec| file.info(&spec.name).is_some());
        let net = Trunk::ALL.into_iter().map(Net::new).find(is_it).ok_or_else(|| {
            let message = "is no LPIPS or ST-LPIPS network: expected net.slice1.0.weight and its siblings, and \
                           lin0.model.1.weight to lin4.model.1.weight. The file must hold the trunk, too: \
                           torch.save(lpips.LPIPS(net=\"alex\").state_dict(), \"lpips.pth\") makes one";
            Error::model(file.path(), message)
        })?;
        let read = |spec: &ParamSpec| values(file, &spec.name, &spec.shape);
        let params = Params::load(net.layout().clone(), &Compute::new(device, DType::F32), read)?;
        Ok(Self { net, params, device: device.clone(), weights: file.sha256()?.to_string() })
    }

    /// SHA-256 of the file.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// `lpips_alex`, `lpips_vgg`, `stlpips_alex` or `stlpips_vgg`.
    pub fn name(&self) -> &'static str {
        self.net.trunk().name()
    }

    /// The least side of a picture.
    pub fn least_side(&self) -> usize {
        self.net.trunk().least_side()
    }

    /// The distance of two pictures `[1, 3, h, w]` in [-1, 1], 0 for equal ones.
    ///
    /// # Errors
    /// [`Error::Config`] for shapes that differ or do not fit, [`Error::Backend`] if the result cannot be read back.
    pub fn distance(&self, a: &Tensor<4>, b: &Tensor<4>) -> Result<f64> {
        let ImageShape { channels, height, width } = ImageShape::of_batch(a);
        if a.dims() != b.dims() || a.dims()[0] != 1 || channels != 3 || height.min(width) < self.least_side() {
            return Err(Error::config(format!(
                "{} compares two pictures of 3 channels and sides of at least {}, found {:?} and {:?}",
                self.name(),
                self.least_side(),
                a.dims(),
                b.dims()
            )));
        }
        let taps = |x: &Tensor<4>| self.net.taps(&self.params, x.clone().to_device(&self.device));
        let (a, b) = (taps(a), taps(b));
        let distances = a.into_iter().zip(b).enumerate().map(|(tap, (a, b))| {
            let squares = to_f32(&self.net.weighed(&self.params, tap, a, b))?;
            Ok(squares.iter().map(|v| f64::from(*v)).sum::<f64>() / squares.len() as f64)
        });
        distances.sum()
    }
}
