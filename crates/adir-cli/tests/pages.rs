//! Every page of a file: into one file or into a folder, each as it would be alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use adir::io::image::{BitDepth, Picture, Reading, WriteOptions, read_image_as, write_image};
use adir::io::limits::Limits;
use adir::io::stack::write_stack;
use adir::tensor::{Tensor, cpu, from_f32, to_f32};

mod common;
use common::{command, expect, folder, json, part, square};
use serde_json::Value;

/// What every run here has in common.
const SR2: [&str; 5] = ["--task", "sr2", "--steps", "2", "-q"];

#[track_caller]
fn restore(code: i32, folder: &Path, args: &[&str]) -> String {
    expect(code, folder, &[&["restore"], args, &SR2].concat()).1
}

/// A stack of these pages, written with those options.
fn stack(path: &Path, pages: &[(Tensor<4>, WriteOptions)]) {
    let folder = path.with_extension("parts");
    fs::create_dir_all(&folder).unwrap();
    let one = |(k, (page, options)): (usize, &(Tensor<4>, WriteOptions))| -> PathBuf {
        let file = folder.join(format!("{k}.tif"));
        write_image(&file, page, options).unwrap();
        file
    };
    let files: Vec<PathBuf> = pages.iter().enumerate().map(one).collect();
    write_stack(path, &files, &Limits::default()).unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

/// RGB of 8 bits, grey of 16 bits, and a larger page.
fn three(path: &Path) {
    let sixteen = WriteOptions { bit_depth: BitDepth::Sixteen, ..WriteOptions::default() };
    stack(
        path,
        &[
            (square(40, 60, 16), WriteOptions::default()),
            (square(70, 60, 16).narrow(1, 1, 1), sixteen),
            (square(60, 80, 24), WriteOptions::default()),
        ],
    );
}

fn values(file: &Path, page: Option<usize>) -> (Vec<f32>, usize) {
    let mut reading = Reading::default();
    reading.page = page;
    let picture: Picture = read_image_as(file, &reading, &Limits::default()).unwrap();
    (to_f32(&picture.tensor).unwrap(), picture.pages)
}

#[test]
fn a_stack_becomes_a_stack_whose_pages_are_those_restored_alone() {
    let f = folder("stack");
    three(&f.join("s.tif"));
    let (out, _) = expect(0, &f, &[&["restore", "s.tif", "-o", "x.tif", "--page", "all", "--plan"], &SR2[..]].concat());
    assert!(out.contains("3 pages: 0 finished, 3 to restore") && !f.join("x.tif.pages").exists(), "{out}");
    restore(0, &f, &["s.tif", "-o", "x.tif", "--page", "all"]);
    assert!(!f.join("x.tif.pages").exists());
    for page in 1..=3 {
        let alone = f.join(format!("{page}.tif"));
        restore(0, &f, &["s.tif", "-o", &alone.to_string_lossy(), "--page", &page.to_string()]);
        let (found, pages) = values(&f.join("x.tif"), Some(page));
        assert_eq!(pages, 3);
        assert_eq!(found, values(&alone, None).0, "page {page}");
    }
    let record = json(&f.join("x.tif.json"));
    let pages = record["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 3);
    assert!(pages.iter().all(|page| page["agreement_psnr"].as_f64().unwrap() > 30.0), "{record}");
    assert_eq!(pages[2]["request"]["reading"]["page"], 3);
    let (out, _) = expect(0, &f, &["replay", "x.tif.json", "-o", "again.tif", "-q"]);
    assert!(out.contains("page 3") && out.contains("the run repeats"), "{out}");
    assert_eq!(fs::read(f.join("again.tif")).unwrap(), fs::read(f.join("x.tif")).unwrap());
    // What is kept has its record, which repeats it.
    let (out, _) = expect(0, &f, &["replay", "again.tif.json", "-q"]);
    assert!(out.contains("again.tif ") && out.contains("the run repeats"), "{out}");
    assert!(!fs::read_to_string(f.join("again.tif.json")).unwrap().contains("adir-pipe-"));
    let record = fs::read(f.join("again.tif.json")).unwrap();
    fs::write(f.join("cut.json"), &record[..record.len() / 2]).unwrap();
    let (_, err) = expect(3, &f, &["replay", "cut.json"]);
    assert!(err.contains("cut.json: is cut off, and no whole record"), "{err}");
    fs::write(f.join("other.tif.json"), "mine").unwrap();
    let (_, err) = expect(2, &f, &["replay", "x.tif.json", "-o", "other.tif", "--overwrite"]);
    assert!(err.contains("did not write") && !f.join("other.tif").exists(), "{err}");
    // What is there is replaced only if that was asked for.
    let err = restore(2, &f, &["s.tif", "-o", "x.tif", "--page", "all"]);
    assert!(err.contains("--overwrite"), "{err}");
    let first = fs::read(f.join("x.tif")).unwrap();
    restore(0, &f, &["s.tif", "-o", "x.tif", "--page", "all", "--overwrite"]);
    assert_eq!(fs::read(f.join("x.tif")).unwrap(), first);
}

#[test]
fn pages_become_files_of_a_folder() {
    let f = folder("files");
    fs::create_dir_all(f.join("s/b")).unwrap();
    three(&f.join("s/b/a.tif"));
    write_image(&f.join("s/one.png"), &square(40, 60, 16), &WriteOptions::default()).unwrap();
    restore(0, &f, &["s", "-o", "o", "--page", "all"]);
    for (name, page) in [("b/a.p1.tif", Some(1)), ("b/a.p2.tif", Some(2)), ("b/a.p3.tif", Some(3)), ("one.png", None)] {
        let record = json(&f.join("o").join(format!("{name}.json")));
        assert_eq!(record["request"]["reading"]["page"].as_u64().map(|k| k as usize), page, "{name}");
    }
    let (out, err) = expect(0, &f, &["merge", "o"]);
    assert!(err.contains("4 files restored, 0 missing, 0 failed"), "{out}{err}");
    let manifest = fs::read_to_string(f.join("o/adir-manifest.jsonl")).unwrap();
    assert!(manifest.contains(r#""file":"b/a.tif","page":2,"output":"b/a.p2.tif""#), "{manifest}");
    // One of them is made again, and it alone.
    for name in ["a.p2.tif", "a.p2.tif.json"] {
        fs::remove_file(f.join("o/b").join(name)).unwrap();
    }
    let (_, err) = expect(0, &f, &["restore", "s", "-o", "o", "--page", "all", "--task", "sr2", "--steps", "2"]);
    assert!(err.contains("1 restored, 3 finished before"), "{err}");
    assert_eq!(values(&f.join("o/b/a.p2.tif"), None).0.len(), 32 * 32);
    // A single file in the same way; a page that was not asked for is another request.
    restore(0, &f, &["s/b/a.tif", "-o", "p", "--page", "all", "--format", "png"]);
    assert_eq!(values(&f.join("p/a.p3.png"), None).0, values(&f.join("o/b/a.p3.tif"), None).0);
    let err = restore(2, &f, &["s", "-o", "o", "--page", "1"]);
    assert!(err.contains("one.png"), "{err}");
}

/// A page that cannot be restored leaves no stack to write: that is known before anything is computed. A folder gets the
/// others.
#[test]
fn pages_that_cannot_be_restored_are_named_at_once() {
    let f = folder("failing");
    let float = WriteOptions { bit_depth: BitDepth::Float, ..WriteOptions::default() };
    // Floats beyond 1, of which nobody says which one is white.
    let bright = square(70, 60, 16) * 80.0 + 90.0;
    stack(
        &f.join("s.tif"),
        &[
            (square(40, 60, 16), WriteOptions::default()),
            (bright, float),
            (square(40, 90, 16), WriteOptions::default()),
        ],
    );
    for plan in [&["--plan"][..], &[]] {
        let err = restore(3, &f, &[&["s.tif", "-o", "x.tif", "--page", "all"], plan].concat());
        assert!(err.contains("page 2: ") && err.contains("white") && err.contains("name a folder"), "{err}");
        assert!(!f.join("x.tif").exists() && !f.join("x.tif.pages").exists());
    }
    let err = restore(1, &f, &["s.tif", "-o", "o", "--page", "all"]);
    assert!(err.contains("page 2") && f.join("o/s.p1.tif").is_file() && !f.join("o/s.p2.tif").exists(), "{err}");
    assert!(err.find("white").unwrap() < err.find("1 page not restored").unwrap(), "{err}");
    // A mask that fits one page only.
    three(&f.join("t.tif"));
    let half = from_f32((0..256).map(|k| if k < 128 { 1.0 } else { -1.0 }).collect(), [1, 1, 16, 16], &cpu());
    write_image(&f.join("m.png"), &half, &WriteOptions::default()).unwrap();
    let args =
        ["restore", "t.tif", "-o", "x.tif", "--page", "all", "--task", "denoise", "--sigma", "5", "--ignore", "m.png"];
    let (_, err) = expect(2, &f, &args);
    assert!(err.contains("page 3: ") && err.contains("16x16"), "{err}");
    assert!(!f.join("x.tif.pages").exists());
}

/// What is said while pages are restored says of which one, as text and as JSON.
#[test]
fn warnings_and_steps_say_of_which_page() {
    let f = folder("which");
    three(&f.join("s.tif"));
    let noisy = ["restore", "s.tif", "-o", "o", "--page", "all", "--task", "denoise", "--sigma", "90", "--steps", "2"];
    let (_, err) = expect(0, &f, &noisy);
    assert!(err.lines().any(|line| line.starts_with("warning: s.tif, page 2: the observation")), "{err}");
    let json = [&noisy[..], &["--overwrite", "--seed", "1", "--log-format", "json"]].concat();
    let (_, err) = expect(0, &f, &json);
    let events: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for kind in ["step", "warning"] {
        let of: Vec<&Value> = events.iter().filter(|e| e["event"] == kind && e["of"] != "checking").collect();
        assert!(!of.is_empty() && of.iter().all(|e| e["file"].is_string()), "{kind}: {err}");
        assert!(of.iter().any(|e| e["file"] == "s.tif, page 3"), "{kind}: {err}");
    }
    let (_, err) = expect(
        0,
        &f,
        &["restore", "s.tif", "-o", "x.tif", "--page", "all", "--task", "denoise", "--sigma", "90", "--steps", "2"],
    );
    assert!(err.contains("warning: s.tif, page 3: ") && !err.contains("folder") && !err.contains("shard"), "{err}");
    let (_, err) = expect(0, &f, &["replay", "x.tif.json"]);
    assert!(err.contains("warning: page 3: "), "{err}");
}

/// Results of pages that are gone stay, and are named.
#[test]
fn results_of_pages_that_are_gone_are_named() {
    let f = folder("gone");
    three(&f.join("s.tif"));
    restore(0, &f, &["s.tif", "-o", "o", "--page", "all"]);
    fs::write(f.join("o/s.p4.tif"), "mine").unwrap();
    stack(&f.join("s.tif"), &[40, 70].map(|top| (square(top, 60, 16), WriteOptions::default())));
    let said = "this one does not make: s.p3.tif\n";
    for plan in [&["--plan"][..], &[]] {
        let err = restore(0, &f, &[&["s.tif", "-o", "o", "--page", "all", "--overwrite"], plan].concat());
        assert!(err.contains(said), "{err}");
    }
    assert!(f.join("o/s.p3.tif").is_file() && f.join("o/s.p4.tif").is_file());
    let err = restore(0, &f, &["s.tif", "-o", "o", "--page", "all"]);
    assert!(!err.contains(said), "said once: {err}");
    // As for images of a folder.
    let (a, b) = (f.join("scans/a.png"), f.join("scans/b.png"));
    [&a, &b].iter().for_each(|file| part(file, 40, 60, 16));
    restore(0, &f, &["scans", "-o", "p"]);
    fs::remove_file(b).unwrap();
    let err = restore(0, &f, &["scans", "-o", "p"]);
    assert!(err.contains("this one does not make: b.png\n") && f.join("p/b.png").is_file(), "{err}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_computed() {
    let f = folder("refused");
    three(&f.join("s.tif"));
    for (code, args, said) in [
        (2, &["s.tif", "-o", "x.png", "--page", "all"][..], ".tif"),
        (2, &["s.tif", "-o", "x.jxl", "--page", "all"], "not written"),
        (2, &["s.tif", "-o", "x.tif/", "--page", "all"], "x.tif"),
        (2, &["s.tif", "-o", "x.tif", "--page", "all", "-n", "2"], "folder"),
        (2, &["s.tif", "-o", "x.tif", "--page", "all", "--report", "r.html"], "--report"),
        (2, &["s.tif", "-o", "o", "--page", "all", "--report", "r.html"], "--report"),
        (2, &["s.tif", "-o", "x.tif", "--page", "all", "--shard", "1/2"], "--shard"),
        (2, &["s.tif", "-o", "x.tif", "--page", "all", "--seed", "-1"], "--seed"),
        (2, &["s.tif", "-o", "s.tif", "--page", "all", "--overwrite"], "would replace the input"),
        (2, &["s.tif", "-o", "-", "--page", "all"], "-o FOLDER"),
        (2, &["s.tif", "-o", "x.tif", "--page", "all", "--record", "-"], "not to a pipe"),
        (2, &["s.tif", "-o", "x.tif", "--page", "1", "--record", "-"], "not to a pipe"),
        (2, &["s.tif", "-o", "x.tif", "--page", "1", "--report", "-"], "not to a pipe"),
        (2, &["-", "-o", "x.tif", "--page", "all"], "pipe"),
        (2, &["s.tif", "-o", "x.tif", "--page", "0"], "count from 1"),
        (2, &["s.tif", "-o", "x.tif", "--page", "every"], "or all"),
        (3, &["none.tif", "-o", "x.tif", "--page", "all"], "none.tif"),
    ] {
        let err = restore(code, &f, args);
        assert!(err.contains(said), "{args:?}: {err}");
        assert!(!f.join("x.tif").exists() && !f.join("x.tif.pages").exists() && !f.join("o").exists(), "{args:?}");
    }
    // What no page can be stored in is said of the file, not of those of the pages.
    let clear = WriteOptions { alpha: Some(vec![0.5; 256]), ..WriteOptions::default() };
    stack(&f.join("alpha.tif"), &[(square(40, 60, 16), clear.clone()), (square(60, 40, 16), clear)]);
    let err = restore(2, &f, &["alpha.tif", "-o", "x.fits", "--page", "all"]);
    assert!(err.contains("x.fits: the input has an alpha channel") && !err.contains("x.fits.pages"), "{err}");
    // A foreign file in the place of the record.
    fs::write(f.join("x.tif.json"), "{}").unwrap();
    let err = restore(2, &f, &["s.tif", "-o", "x.tif", "--page", "all", "--overwrite"]);
    assert!(err.contains("did not write"), "{err}");
}

/// A killed run goes on with the pages that are left, and ends in the same bytes; so does one that was killed while the stack
/// was made of them.
#[test]
fn a_killed_run_goes_on() {
    let f = folder("killed");
    let pages: Vec<_> = (0..6).map(|k| (square(40 + 5 * k, 60, 16), WriteOptions::default())).collect();
    stack(&f.join("s.tif"), &pages);
    let args = ["restore", "s.tif", "--page", "all", "--task", "sr2", "--steps", "12", "-o"];
    expect(0, &f, &[&args[..], &["whole.tif"]].concat());
    let mut child = command(&f, &[&args[..], &["x.tif"]].concat()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !f.join("x.tif.pages/s.p2.tif.json").exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(f.join("x.tif.pages/s.p2.tif.json").exists());
    // A file of somebody's in the folder stays.
    fs::write(f.join("x.tif.pages/notes.txt"), "mine").unwrap();
    // As if the stack had been written, and its record had not.
    fs::write(f.join("x.tif.pages/joining"), "").unwrap();
    fs::write(f.join("x.tif"), "some bytes").unwrap();
    let (_, err) = expect(0, &f, &[&args[..], &["x.tif"]].concat());
    assert!(!err.contains(" 0 finished before"), "{err}");
    assert_eq!(fs::read(f.join("x.tif")).unwrap(), fs::read(f.join("whole.tif")).unwrap());
    let left: Vec<_> = fs::read_dir(f.join("x.tif.pages")).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

/// A list of pages that breaks off is told, and a cube that promises more planes than it has gives those that are there.
#[test]
fn pages_that_are_not_there_are_told() {
    let f = folder("cut");
    three(&f.join("s.tif"));
    let bytes = fs::read(f.join("s.tif")).unwrap();
    // The last directory lies at the end.
    fs::write(f.join("cut.tif"), &bytes[..bytes.len() - 20]).unwrap();
    let (_, err) =
        expect(0, &f, &["restore", "cut.tif", "-o", "x.tif", "--page", "all", "--task", "sr2", "--steps", "2"]);
    assert!(err.contains("its list of pages is damaged or cut off after page 2"), "{err}");
    assert_eq!(values(&f.join("x.tif"), Some(1)).1, 2);
    let cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    3"];
    let sides = ["NAXIS1  =                   16", "NAXIS2  =                   16", "NAXIS3  =           9999999999"];
    let mut cube: Vec<u8> =
        cards.iter().chain(&sides).chain(&["END"]).flat_map(|card| format!("{card:<80}").into_bytes()).collect();
    cube.resize(2880, b' ');
    cube.extend((0..2 * 256).map(|i| (i % 251) as u8));
    fs::write(f.join("cube.fits"), cube).unwrap();
    let (_, err) =
        expect(0, &f, &["restore", "cube.fits", "-o", "o", "--page", "all", "--task", "sr2", "--steps", "2"]);
    assert!(err.contains("2 of 9999999999 planes are there") && err.contains("2 restored"), "{err}");
}

/// A FITS cube of bytes with these lengths of the axes, and one more card.
fn cube(path: &Path, axes: &[usize], card: &str) {
    let mut cards = vec!["SIMPLE  =                    T".to_owned(), "BITPIX  =                    8".into()];
    cards.push(format!("NAXIS   = {:>20}", axes.len()));
    cards.extend((1..).zip(axes).map(|(k, length)| format!("{:<8}= {length:>20}", format!("NAXIS{k}"))));
    cards.extend(["CTYPE3  = 'FREQ'", "CRPIX3  =                  2.0", card, "END"].map(str::to_owned));
    let mut file: Vec<u8> = cards.iter().flat_map(|card| format!("{card:<80}").into_bytes()).collect();
    file.resize(2880, b' ');
    file.extend((0..axes.iter().product()).map(|i: usize| (i * i % 251) as u8));
    file.resize(file.len().next_multiple_of(2880), 0);
    fs::write(path, file).unwrap();
}

/// Planes of a cube become a cube with its header. What is no cube is refused before anything is computed.
#[test]
fn a_cube_becomes_a_cube_of_the_planes_restored_alone() {
    let f = folder("planes");
    cube(&f.join("s.fits"), &[16, 12, 4], "OBJECT  = 'M51'");
    let all = ["--page", "all"];
    restore(0, &f, &[&["s.fits", "-o", "x.fits"], &all[..]].concat());
    let written = fs::read(f.join("x.fits")).unwrap();
    let header = String::from_utf8_lossy(&written[..2880]).into_owned();
    for card in [
        "NAXIS   =                    3",
        "NAXIS1  =                   32",
        "NAXIS2  =                   24",
        "NAXIS3  =                    4",
        "CRPIX3  =                  2.0",
        "OBJECT  = 'M51'",
    ] {
        assert!(header.contains(card), "{card}: {header}");
    }
    assert!(written.len().is_multiple_of(2880));
    for page in 1..=4 {
        let alone = f.join(format!("{page}.fits"));
        restore(0, &f, &["s.fits", "-o", &alone.to_string_lossy(), "--page", &page.to_string()]);
        let (found, pages) = values(&f.join("x.fits"), Some(page));
        assert_eq!((pages, found), (4, values(&alone, None).0), "page {page}");
    }
    let (out, _) = expect(0, &f, &["replay", "x.fits.json", "-o", "again.fits", "-q"]);
    assert!(out.contains("page 4") && out.contains("the run repeats"), "{out}");
    assert_eq!(fs::read(f.join("again.fits")).unwrap(), written);
    // Pages in colours, of several sizes, and planes along two axes.
    three(&f.join("s.tif"));
    cube(&f.join("four.fits"), &[16, 12, 2, 2], "CRPIX4  =                  1.0");
    for (input, said) in [("s.tif", "page 1 is in colours"), ("four.fits", "page 3 has another header")] {
        let err = restore(2, &f, &[&[input, "-o", "y.fits"], &all[..]].concat());
        assert!(err.contains(said) && err.contains(".tif"), "{err}");
        assert!(!f.join("y.fits").exists() && !f.join("y.fits.pages").exists());
    }
}

/// Pages differ, and so must their adapters, though they lie in one file.
#[test]
fn pages_adapted_to_themselves_have_adapters_of_their_own() {
    let f = folder("itself");
    stack(&f.join("s.tif"), &[40, 70].map(|top| (square(top, 60, 32), WriteOptions::default())));
    let adapt = ["--adapt", "self", "--iterations", "1", "--adapt-batch", "2"];
    restore(0, &f, &[&["s.tif", "-o", "o", "--page", "all"], &adapt[..]].concat());
    let key = |page: usize| json(&f.join(format!("o/s.p{page}.tif.json")))["adaptation"]["key"].clone();
    assert!(key(1).is_string() && key(1) != key(2), "{}", key(1));
}
