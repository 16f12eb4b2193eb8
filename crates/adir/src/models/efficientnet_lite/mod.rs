//! EfficientNet-Lite0, the image encoder that ships with the program.
//!
//! Without its classifier it maps an image to 1280 features; images of similar things have similar features. It cannot
//! embed text. The weights are embedded (`assets/efficientnet_lite0.md`), so that
//! retrieval works with no download.

mod net;

use std::sync::Arc;

use self::net::Net;
use crate::Error;
use crate::Result;
use crate::compute::in_pool;
use crate::encode::{Embedding, Encoder, EncoderId, Preprocess};
use crate::io::weights::WeightFile;
use crate::models::load::values;
use crate::models::params::Params;
use crate::tensor::{Compute, DType, Device, Tensor, to_f32};

/// The published input: 224 x 224, `(v - 127) / 128` of bytes.
const PREPROCESS: Preprocess = Preprocess { size: 224, mean: [127.0 / 255.0; 3], std: [128.0 / 255.0; 3] };

/// EfficientNet-Lite0 without its classifier.
#[derive(Debug)]
pub struct EfficientNetLite0 {
    id: Arc<EncoderId>,
    net: Net,
    params: Params,
    device: Device,
}

impl EfficientNetLite0 {
    /// The embedded network with its ImageNet weights.
    ///
    /// # Errors
    /// Never fails in a correct build.
    pub fn embedded(device: &Device) -> Result<Self> {
        Self::load(&WeightFile::from_bytes("embedded efficientnet-lite0", adir_assets::EFFICIENTNET_LITE0)?, device)
    }

    /// The network from a file like the embedded one.
    ///
    /// # Errors
    /// [`Error::Model`] if a tensor is missing or does not fit.
    fn load(file: &WeightFile, device: &Device) -> Result<Self> {
        let id = EncoderId {
            name: "efficientnet-lite0".to_owned(),
            weights: file.sha256()?.to_string(),
            preprocessing: PREPROCESS.hash(),
            dimension: net::FEATURES,
        };
        let net = Net::new();
        let compute = Compute::new(device, DType::F32);
        let params = Params::load(net.layout().clone(), &compute, |spec| values(file, &spec.name, &spec.shape))?;
        Ok(Self { id: Arc::new(id), net, params, device: device.clone() })
    }
}

impl Encoder for EfficientNetLite0 {
    fn id(&self) -> &Arc<EncoderId> {
        &self.id
    }

    fn image(&self, picture: &Tensor<4>) -> Result<Embedding> {
        let picture = PREPROCESS.apply(picture)?.to_device(&self.device);
        let features = in_pool(&self.device, || to_f32(&self.net.forward(&self.params, picture)))?;
        Embedding::new(self.id.clone(), features)
    }

    fn text(&self, _text: &str) -> Result<Embedding> {
        Err(Error::Config("the encoder efficientnet-lite0 cannot embed text; use a CLIP model".to_owned()))
    }
}
