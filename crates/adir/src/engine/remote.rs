//! Galleries on servers: the images that searches have found so far, by the order in which they were found.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event::{Watch, warn};
use super::gallery::Found;
use super::record::ImageRecord;
use crate::encode::Embedding;
use crate::retrieve::{ContentHash, Neighbour, RemoteHit, RemoteIndex};
use crate::{Error, Result};

/// Most images that a server is asked for at once.
const MOST: usize = 10_000;

/// A remote index and what it has given.
pub(super) struct RemoteGallery {
    index: Box<dyn RemoteIndex>,
    /// Its address, as records have it.
    root: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    images: Vec<Image>,
    ids: HashMap<String, usize>,
    /// Keys of images that could not be had.
    gone: HashSet<String>,
}

/// An image whose file is here.
#[derive(Clone)]
pub(super) struct Image {
    place: String,
    pub file: PathBuf,
    pub content: ContentHash,
}

impl RemoteGallery {
    pub fn new(index: Box<dyn RemoteIndex>) -> Result<Self> {
        index.check_images()?;
        let root = PathBuf::from(index.address());
        Ok(Self { index, root, seen: Mutex::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// As [`Gallery::nearest`](super::gallery::Gallery::nearest).
    pub fn nearest(
        &self,
        query: &Embedding,
        count: usize,
        closer_than: f64,
        exclude: &[ContentHash],
        watch: &Watch<'_>,
    ) -> Result<Vec<Neighbour>> {
        let (mut left, mut contents, mut gone): (Vec<Neighbour>, HashSet<ContentHash>, Vec<Error>) = Default::default();
        let (mut wanted, mut looked_at) = (count.min(MOST), HashSet::new());
        loop {
            let hits = self.index.nearest(query, wanted)?;
            let exhausted = hits.len() < wanted || wanted == MOST;
            for hit in hits {
                if left.len() == count || !looked_at.insert(hit.key.clone()) || hit.distance < closer_than {
                    continue;
                }
                match self.had(&hit) {
                    Ok(Some((id, image))) => {
                        if !exclude.contains(&image.content) && contents.insert(image.content) {
                            left.push(Neighbour { id, distance: hit.distance });
                        }
                    }
                    Ok(None) => {}
                    Err(error @ (Error::Input { .. } | Error::TooLarge { .. })) => {
                        self.seen().gone.insert(hit.key);
                        gone.push(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if left.len() == count || exhausted {
                break;
            }
            wanted = wanted.saturating_mul(2).min(MOST);
        }
        if let Some(first) = gone.first() {
            let message = match gone.len() {
                1 => format!("one of the nearest images is left out, and the next nearest taken: {first}"),
                more => format!("{more} of the nearest images are left out, and the next nearest taken: {first}"),
            };
            warn(watch, message)?;
        }
        if left.is_empty() {
            return Err(Error::input(&self.root, "has no images to adapt to that can be had"));
        }
        Ok(left)
    }

    /// The image of a hit, with its number; none if it could not be had before.
    fn had(&self, hit: &RemoteHit) -> Result<Option<(usize, Image)>> {
        {
            let seen = self.seen();
            if let Some(&id) = seen.ids.get(&hit.key) {
                return Ok(Some((id, seen.images[id].clone())));
            }
            if seen.gone.contains(&hit.key) {
                return Ok(None);
            }
        }
        let file = self.index.file(hit)?;
        let content = ContentHash::of_file(&file)?;
        let image = Image { place: hit.place.clone(), file, content };
        let mut seen = self.seen();
        let id = seen.images.len();
        seen.images.push(image.clone());
        seen.ids.insert(hit.key.clone(), id);
        Ok(Some((id, image)))
    }

    /// An image that a search has found.
    pub fn image(&self, id: usize) -> Result<Image> {
        self.seen().images.get(id).cloned().ok_or_else(|| Error::config("an image of another gallery"))
    }

    /// Where the image in that file came from.
    pub fn place_of(&self, file: &Path) -> Option<PathBuf> {
        self.seen().images.iter().find(|image| image.file == file).map(|image| image.place.clone().into())
    }

    pub fn describe(&self, images: &[Neighbour]) -> Result<Vec<Found>> {
        let describe = |n: &Neighbour| {
            let image = self.image(n.id)?;
            let (path, distance) = (Some(image.place.into()), Some(n.distance));
            let record = ImageRecord { path, sha256: image.content, tile: None, distance };
            Ok(Found { path: image.file, record })
        };
        images.iter().map(describe).collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // An image is added before its number is known.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::encode::EncoderId;

    /// Images 0 to 9, the n-th at n/10 radians; what is asked for is counted.
    struct Server {
        folder: PathBuf,
        asked: Arc<AtomicUsize>,
    }

    impl RemoteIndex for Server {
        fn address(&self) -> &str {
            "test://here/images"
        }
        fn nearest(&self, _: &Embedding, count: usize) -> Result<Vec<RemoteHit>> {
            let hit = |n: usize| RemoteHit {
                key: n.to_string(),
                place: format!("http://a/{n}.png"),
                distance: n as f64 / 10.0,
            };
            Ok((0..count.min(10)).map(hit).collect())
        }
        fn check_images(&self) -> Result<()> {
            Ok(())
        }
        fn file(&self, hit: &RemoteHit) -> Result<PathBuf> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let number: usize = hit.key.parse().unwrap();
            if number == 2 {
                return Err(Error::input(&hit.place, "answers 404"));
            }
            let path = self.folder.join(format!("{number}.png"));
            // The fifth is the fourth again.
            std::fs::write(&path, [number.clamp(0, 9) as u8 - u8::from(number == 5)]).unwrap();
            Ok(path)
        }
    }

    #[test]
    fn what_cannot_be_had_is_replaced_by_the_next_nearest() {
        let folder = std::env::temp_dir().join(format!("adir-remote-gallery-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let gallery = RemoteGallery::new(Box::new(Server { folder: folder.clone(), asked: asked.clone() })).unwrap();
        let id = EncoderId { name: "t".into(), weights: "".into(), preprocessing: "".into(), dimension: 1 };
        let query = Embedding::new(Arc::new(id), vec![1.0]).unwrap();
        let warnings = Mutex::new(Vec::new());
        let watch = |event: &crate::engine::Event| {
            warnings.lock().unwrap().push(format!("{event:?}"));
            std::ops::ControlFlow::Continue(())
        };
        let nearest = |count, closer_than, exclude: &[ContentHash]| {
            let found = gallery.nearest(&query, count, closer_than, exclude, &watch)?;
            Ok::<_, Error>(found.iter().map(|n| (n.distance * 10.0).round() as usize).collect::<Vec<_>>())
        };
        let own = crate::io::hash::sha256(&[1]);
        assert_eq!(nearest(4, 0.0, &[own]).unwrap(), [0, 3, 4, 6]);
        assert_eq!(warnings.lock().unwrap().len(), 1);
        assert!(warnings.lock().unwrap()[0].contains("answers 404"));
        // The doubled question finds what is known: no image is fetched twice, and none is told of again.
        let before = asked.load(Ordering::Relaxed);
        assert_eq!(nearest(4, 0.0, &[own]).unwrap(), [0, 3, 4, 6]);
        assert_eq!((asked.load(Ordering::Relaxed), warnings.lock().unwrap().len()), (before, 1));
        assert_eq!(nearest(20, 0.35, &[]).unwrap(), [4, 6, 7, 8, 9]);
        assert!(nearest(1, 3.0, &[]).is_err());
        let found = gallery.describe(&[Neighbour { id: 0, distance: 0.0 }]).unwrap();
        assert_eq!(found[0].record.path.as_deref(), Some(Path::new("http://a/0.png")));
        assert_eq!(gallery.place_of(&folder.join("3.png")).as_deref(), Some(Path::new("http://a/3.png")));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
