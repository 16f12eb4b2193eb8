//! Building an index of a folder: what is embedded, what is taken over, what is left out; with the embedded encoder.

use std::fs;
use std::path::{Path, PathBuf};

use adir::Error;
use adir::encode::{Embedding, Encoder, EncoderId};
use adir::io::image::{WriteOptions, write_image};
use adir::io::limits::Limits;
use adir::models::efficientnet_lite::EfficientNetLite0;
use adir::retrieve::{Build, BuildOutcome, ContentHash, Exclude, Index, Precision, Tile, TileSide};
use adir::tensor::{Tensor, cpu, from_f32};

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("adir-retrieve-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("deep/er")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn picture(&self, name: &str, seed: usize) {
        write_image(&self.path(name), &picture(seed), &WriteOptions::default()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Stripes and blobs whose scale and colour depend on `seed`.
fn picture(seed: usize) -> Tensor<4> {
    let (h, w) = (40 + seed, 60);
    let value = |c: usize, y: usize, x: usize| {
        let wave = (x as f32 * (0.1 + 0.07 * seed as f32)).sin() * (y as f32 * (0.3 / (1.0 + c as f32))).cos();
        ((wave + (seed * (c + 1)) as f32 * 0.13).sin() * 127.0).round() / 127.5
    };
    let values = (0..3).flat_map(|c| (0..h).flat_map(move |y| (0..w).map(move |x| value(c, y, x)))).collect();
    from_f32(values, [1, 3, h, w], &cpu())
}

/// Runs a build to its end: path and what was done, `e`mbedded, `r`eused or `s`kipped.
fn run(folder: &Folder, encoder: &dyn Encoder, previous: Option<Index>) -> (Index, Vec<String>) {
    let mut build = Build::new(&folder.0, encoder, Precision::F16, None, Limits::default(), previous).unwrap();
    let mut events = Vec::new();
    for event in build.by_ref() {
        let outcome = match event.outcome {
            BuildOutcome::Embedded => 'e',
            BuildOutcome::Reused => 'r',
            BuildOutcome::Skipped(_) => 's',
        };
        events.push(format!("{outcome} {}", event.path));
    }
    assert_eq!(events.len(), build.total());
    (build.index().unwrap(), events)
}

fn paths(index: &Index) -> Vec<String> {
    index.entries().unwrap().iter().map(|entry| entry.path.clone()).collect()
}

#[test]
fn an_index_is_built_renewed_and_searched() {
    let encoder = EfficientNetLite0::embedded(&cpu()).unwrap();
    let folder = Folder::new("life");
    for (i, name) in ["b.png", "a.png", "deep/c.png", "deep/er/d.webp", "z.jpg"].iter().enumerate() {
        folder.picture(name, i);
    }
    fs::write(folder.path("notes.txt"), "no image").unwrap();
    fs::write(folder.path("broken.png"), "no image either").unwrap();
    fs::write(folder.path(".hidden.png"), "skipped unseen").unwrap();

    let (first, events) = run(&folder, &encoder, None);
    assert_eq!(events, ["e a.png", "e b.png", "s broken.png", "e deep/c.png", "e deep/er/d.webp", "e z.jpg"]);
    assert_eq!(paths(&first), ["a.png", "b.png", "deep/c.png", "deep/er/d.webp", "z.jpg"]);
    assert!(first.is_complete());
    assert_eq!(first.entries().unwrap()[0].size, fs::metadata(folder.path("a.png")).unwrap().len());

    // Through a file, and searched with one of its own pictures.
    let file = folder.path("photos.index");
    first.save(&file).unwrap();
    let first = Index::open(&file).unwrap();
    let query = encoder.image(&picture(2)).unwrap();
    let nearest = first.nearest(&query, 2, &Exclude::default()).unwrap();
    assert_eq!(
        first.file(nearest[0].id).unwrap().canonicalize().unwrap(),
        folder.path("deep/c.png").canonicalize().unwrap()
    );
    assert!(nearest[0].distance < 2e-3 && nearest[1].distance > 0.05, "{nearest:?}");
    let content = ContentHash::of_file(&folder.path("deep/c.png")).ok();
    let others = first.nearest(&query, 5, &Exclude { content, ..Exclude::default() }).unwrap();
    assert_eq!((others.len(), others[0]), (4, nearest[1]));

    // Renamed, copied, edited, removed, added.
    fs::rename(folder.path("b.png"), folder.path("deep/bb.png")).unwrap();
    fs::copy(folder.path("a.png"), folder.path("copy.png")).unwrap();
    folder.picture("z.jpg", 9);
    fs::remove_file(folder.path("deep/er/d.webp")).unwrap();
    folder.picture("new.png", 7);
    let (second, events) = run(&folder, &encoder, Some(first.clone()));
    let expected = ["r a.png", "s broken.png", "r copy.png", "r deep/bb.png", "r deep/c.png", "e new.png", "e z.jpg"];
    assert_eq!(events, expected);
    assert_eq!(second.vector(0).unwrap(), first.vector(0).unwrap());
    assert_eq!(second.vector(1).unwrap(), first.vector(0).unwrap(), "a copy");

    // From nothing, the same.
    let (fresh, _) = run(&folder, &encoder, None);
    assert_eq!(paths(&fresh), paths(&second));
    for id in 0..fresh.len() {
        assert_eq!(fresh.vector(id).unwrap(), second.vector(id).unwrap());
    }
}

/// Two numbers from the picture's first value, and a count of calls.
struct Counting(std::sync::Arc<EncoderId>, std::sync::atomic::AtomicUsize);

impl Counting {
    fn new(weights: &str) -> Self {
        let name = "counting".to_owned();
        let id = EncoderId { name, weights: weights.to_owned(), preprocessing: String::new(), dimension: 2 };
        Self(std::sync::Arc::new(id), 0.into())
    }
}

impl Encoder for Counting {
    fn id(&self) -> &std::sync::Arc<EncoderId> {
        &self.0
    }

    fn image(&self, picture: &Tensor<4>) -> adir::Result<Embedding> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let values = adir::tensor::to_f32(picture)?;
        Embedding::new(self.0.clone(), vec![values[0] + 2.0, values[1]])
    }

    fn text(&self, _text: &str) -> adir::Result<Embedding> {
        Err(Error::Config("no text".to_owned()))
    }
}

#[test]
fn an_interrupted_build_resumes_from_its_own_index() {
    let folder = Folder::new("resume");
    let names: Vec<String> = (0..23).map(|i| format!("{i:02}.png")).collect();
    names.iter().enumerate().for_each(|(i, name)| folder.picture(name, i));
    let encoder = Counting::new("one");
    let file = folder.path("x.index");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let mut build = Build::new(&folder.0, &encoder, Precision::F32, None, Limits::default(), None).unwrap();
        assert_eq!(build.by_ref().take(9).count(), 9);
        build.index().unwrap().save(&file).unwrap();
    });
    let partial = Index::open(&file).unwrap();
    let embedded = partial.len();
    assert!(!partial.is_complete() && (9..23).contains(&embedded), "{embedded}");
    assert_eq!(encoder.1.load(std::sync::atomic::Ordering::Relaxed), embedded);

    let mut build = Build::new(&folder.0, &encoder, Precision::F32, None, Limits::default(), Some(partial)).unwrap();
    // Nothing visited yet: the index still holds everything there was.
    assert_eq!(build.index().unwrap().len(), embedded);
    assert_eq!(build.by_ref().filter(|event| matches!(event.outcome, BuildOutcome::Reused)).count(), embedded);
    let whole = build.index().unwrap();
    assert!(whole.is_complete());
    assert_eq!(paths(&whole), names);
    assert_eq!(encoder.1.load(std::sync::atomic::Ordering::Relaxed), 23, "no picture was embedded twice");
}

#[test]
fn a_previous_index_of_another_kind_is_refused() {
    let folder = Folder::new("kind");
    folder.picture("a.png", 1);
    let (one, two) = (Counting::new("one"), Counting::new("two"));
    let (index, _) = run(&folder, &one, None);
    let limits = Limits::default();
    let refused = Build::new(&folder.0, &two, Precision::F16, None, limits, Some(index.clone())).err().unwrap();
    assert!(refused.to_string().contains("weights one"), "{refused}");
    let refused = Build::new(&folder.0, &one, Precision::F32, None, limits, Some(index)).err().unwrap();
    assert!(refused.to_string().contains("F16"), "{refused}");
    assert!(Build::new(Path::new("no/such/folder"), &one, Precision::F16, None, limits, None).is_err());
}

/// A file with the path, size and time of the index is not read: here it no longer holds an image. Another time, or one
/// too young to be trusted, makes it read.
#[test]
fn unchanged_files_are_not_read_again() {
    let encoder = EfficientNetLite0::embedded(&cpu()).unwrap();
    let folder = Folder::new("unread");
    folder.picture("a.png", 1);
    let set_time = |seconds_ago: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds_ago);
        fs::File::options().write(true).open(folder.path("a.png")).unwrap().set_modified(time).unwrap();
        time
    };
    let time = set_time(3600);
    let left = |previous| {
        let build = Build::new(&folder.0, &encoder, Precision::F16, None, Limits::default(), previous).unwrap();
        let (count, time) = build.left();
        (count, time.is_zero())
    };
    assert_eq!(left(None), (1, false));
    let (index, _) = run(&folder, &encoder, None);
    let saved = std::env::temp_dir().join(format!("adir-unread-{}.index", std::process::id()));
    index.save(&saved).unwrap();
    let reopened = || Index::open(&saved).unwrap();
    let size = fs::metadata(folder.path("a.png")).unwrap().len() as usize;
    fs::write(folder.path("a.png"), vec![7; size]).unwrap();
    fs::File::options().write(true).open(folder.path("a.png")).unwrap().set_modified(time).unwrap();
    let (again, events) = run(&folder, &encoder, Some(reopened()));
    assert_eq!(events, ["r a.png"]);
    assert_eq!(again.entries().unwrap(), index.entries().unwrap());
    assert_eq!(left(Some(reopened())), (0, true));
    set_time(1800);
    assert_eq!(left(Some(reopened())), (1, false));
    assert_eq!(run(&folder, &encoder, Some(reopened())).1, ["s a.png"], "another time");
    // A file that has just been written gets no time that could be trusted.
    folder.picture("a.png", 1);
    let (young, _) = run(&folder, &encoder, None);
    assert_eq!(young.entries().unwrap()[0].modified, None);
    fs::remove_file(saved).unwrap();
}

#[test]
fn tiles_are_embedded_like_files_and_taken_over() {
    let encoder = EfficientNetLite0::embedded(&cpu()).unwrap();
    let folder = Folder::new("tiles");
    let (left, right) = (picture(0), picture(3).narrow(2, 0, 40));
    let both = Tensor::cat(vec![left.clone(), right.clone()], 3);
    write_image(&folder.path("both.png"), &both, &WriteOptions::default()).unwrap();
    folder.picture("small.png", 1);
    let side = Some(TileSide::new(50).unwrap());
    let build = |previous| Build::new(&folder.0, &encoder, Precision::F32, side, Limits::default(), previous).unwrap();
    let mut first = build(None);
    assert!(first.by_ref().all(|event| matches!(event.outcome, BuildOutcome::Embedded)));
    let index = first.index().unwrap();
    let tiles: Vec<_> = index.entries().unwrap().iter().map(|entry| entry.tile).collect();
    let tile = |left| Some(Tile { top: 0, left, height: 40, width: 60 });
    assert_eq!(tiles, [tile(0), tile(60), None]);
    assert_eq!(paths(&index), ["both.png", "both.png", "small.png"]);
    for (id, part) in [(0, left), (1, right)] {
        let alone = encoder.image(&part).unwrap();
        assert_eq!(index.vector(id).unwrap(), alone.values(), "tile {id}");
    }
    // Written, read, moved and copied, without another look at the pixels.
    let file = folder.path("tiles.index");
    index.save(&file).unwrap();
    let read = Index::open(&file).unwrap();
    assert_eq!((read.entries().unwrap(), read.tiles()), (index.entries().unwrap(), side));
    fs::rename(folder.path("both.png"), folder.path("moved.png")).unwrap();
    fs::copy(folder.path("small.png"), folder.path("copy.png")).unwrap();
    let mut again = build(Some(read));
    assert!(again.by_ref().all(|event| matches!(event.outcome, BuildOutcome::Reused)));
    let again = again.index().unwrap();
    assert_eq!(paths(&again), ["copy.png", "moved.png", "moved.png", "small.png"]);
    assert_eq!(again.vector(2).unwrap(), index.vector(1).unwrap());
    let whole = Build::new(&folder.0, &encoder, Precision::F32, None, Limits::default(), Some(again)).err().unwrap();
    assert!(whole.to_string().contains("tiles of 50 pixels"), "{whole}");
}
