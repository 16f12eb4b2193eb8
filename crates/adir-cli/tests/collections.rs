//! Galleries as data sets come: images in tar files, lists of images, and searches by a first restoration.

use std::fs;
use std::path::Path;

mod common;
use common::{expect, json, part};
use serde_json::Value;

/// A folder with an observation, `y.png`, and eight images in `g`.
fn folder(name: &str) -> std::path::PathBuf {
    let f = common::folder(name);
    part(&f.join("y.png"), 60, 60, 32);
    for k in 0..8 {
        part(&f.join(format!("g/{k:016x}.png")), 20 + 30 * (k % 3), 10 + 40 * (k / 3), 48);
    }
    f
}

const RESTORE: [&str; 17] = [
    "restore",
    "y.png",
    "-o",
    "x.png",
    "--task",
    "sr2",
    "--overwrite",
    "--steps",
    "1",
    "--iterations",
    "1",
    "--adapt-crop",
    "16",
    "--adapt-batch",
    "2",
    "--lora",
    "2",
];

/// Restores with an adaptation; the record of the adaptation and the bytes of the result.
#[track_caller]
fn adapted(f: &Path, more: &[&str]) -> (Value, Vec<u8>) {
    expect(0, f, &[&RESTORE[..], more].concat());
    (json(&f.join("x.png.json"))["adaptation"].clone(), fs::read(f.join("x.png")).unwrap())
}

fn of_images(adaptation: &Value, what: &str) -> Vec<String> {
    let images = adaptation["images"].as_array().unwrap().iter();
    images.map(|image| image[what].as_str().unwrap().to_owned()).collect()
}

/// Members of a tar file: name, kind and bytes.
fn tar(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, content) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = *kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend(header);
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Images in tar files are found, and read out of them again: the result is that of the same images as files.
#[test]
fn images_in_tar_files_are_neighbours() {
    let f = folder("shards");
    let (files, result) = adapted(&f, &["--gallery", "g", "--neighbours", "8"]);
    let bytes: Vec<Vec<u8>> = (0..8).map(|k| fs::read(f.join(format!("g/{k:016x}.png"))).unwrap()).collect();
    fs::create_dir_all(f.join("s/train")).unwrap();
    let caption: &[u8] = b"a cat";
    let first = [
        ("0.txt", b'0', caption),
        ("0.png", b'0', &bytes[0]),
        ("0.json", b'0', b"{}"),
        ("1.png", b'0', &bytes[1]),
        ("2.PNG", b'0', &bytes[2]),
        ("../evil.png", b'0', &bytes[3]),
        ("link.png", b'2', b""),
        ("3.png", b'0', &bytes[3]),
    ];
    let second = [("./a/4.png", b'0', &bytes[4][..]), ("a/5.png", b'0', &bytes[5]), ("broken.png", b'0', b"no image")];
    fs::write(f.join("s/00000.tar"), tar(&first)).unwrap();
    fs::write(f.join("s/train/00001.tar"), tar(&second)).unwrap();
    fs::write(f.join("s/notes.tar"), b"no archive").unwrap();
    for (k, name) in [(6, "s/6.png"), (7, "s/z.png")] {
        fs::write(f.join(name), &bytes[k]).unwrap();
    }

    // Only asked for, or hinted at.
    let (_, err) = expect(0, &f, &["index", "build", "s", "-o", "files.index"]);
    assert!(err.contains("files.index: 2 images"), "{err}");
    fs::create_dir_all(f.join("only")).unwrap();
    fs::write(f.join("only/0.tar"), tar(&first)).unwrap();
    let (_, err) = expect(3, &f, &[&RESTORE[..], &["--gallery", "only"]].concat());
    assert!(err.contains("1 tar file: `adir index build --shards`"), "{err}");
    for (args, said) in [
        (
            &["index", "build", "g", "--shards", "-o", "g.index"][..],
            "contains no .tar files, only images: leave out --shards",
        ),
        (&["index", "build", "only", "-o", "g.index"], "1 tar file: `adir index build --shards`"),
        (&["index", "build", "only", "--list", "only.txt", "-o", "g.index"], "1 tar file: `adir index build --shards`"),
        (
            &["index", "build", "only/0.tar", "-o", "g.index"],
            "0.tar: is a tar file: `adir index build FOLDER --shards`",
        ),
        (&["index", "info", "only/0.tar"], "0.tar: is a tar file: `adir index build FOLDER --shards`"),
        (&["index", "build", "packed", "-o", "g.index"], "0.tar.gz: is a compressed tar file"),
        (&["index", "build", "packed", "--shards", "-o", "g.index"], "0.tar.gz: is a compressed tar file"),
        (&["index", "build", "packed/0.tar.gz", "-o", "g.index"], "gunzip"),
        (&["index", "build", "captions", "--shards", "-o", "g.index"], "neither as files nor in its tar files"),
    ] {
        fs::write(f.join("only.txt"), "0\n").unwrap();
        for (name, content) in [("packed/0.tar.gz", b"\x1f\x8b".to_vec()), ("captions/0.tar", tar(&first[..1]))] {
            fs::create_dir_all(f.join(name).parent().unwrap()).unwrap();
            fs::write(f.join(name), content).unwrap();
        }
        let (_, err) = expect(3, &f, args);
        assert!(err.contains(said) && !f.join("g.index").exists(), "{args:?}: {err}");
    }
    // Cut off between two members, or whole.
    let whole = tar(&first);
    for (length, cut) in [(whole.len() - 1024, true), (whole.len(), false)] {
        fs::write(f.join("only/0.tar"), &whole[..length]).unwrap();
        fs::write(f.join("only/1.tgz"), b"\x1f\x8b").unwrap();
        let (_, err) = expect(0, &f, &["index", "build", "only", "--shards", "-o", "only.index"]);
        assert_eq!(err.contains("0.tar: has no mark of its end: it may be cut off"), cut, "{err}");
        assert!(err.contains("left out: 1.tgz: is a compressed tar file"), "{err}");
    }

    let (_, err) = expect(0, &f, &["index", "build", "s", "--shards"]);
    assert!(err.contains("s.index: 8 images"), "{err}");
    for hint in ["leads out of the archive", "is a link", "notes.tar: is no tar file", "train/00001.tar/broken.png"] {
        assert!(err.contains(hint), "{hint}: {err}");
    }
    let (again, _) = expect(0, &f, &["index", "build", "s", "--shards", "--log-format", "json"]);
    assert_eq!(again, "");
    let (inside, same) = adapted(&f, &["--gallery", "s.index", "--neighbours", "8", "--no-cache"]);
    assert_eq!(of_images(&inside, "sha256"), of_images(&files, "sha256"));
    let mut paths = of_images(&inside, "path");
    paths.sort();
    let expected = [
        "00000.tar/0.png",
        "00000.tar/1.png",
        "00000.tar/2.PNG",
        "00000.tar/3.png",
        "6.png",
        "train/00001.tar/a/4.png",
        "train/00001.tar/a/5.png",
        "z.png",
    ];
    assert_eq!(paths, expected);
    assert_eq!(same, result);

    // A shard that was packed anew: what is gone or changed is told, and the rest is found where it lies now.
    let moved = [("9.txt", b'0', caption), ("1.png", b'0', &bytes[1]), ("2.PNG", b'0', &bytes[0])];
    fs::write(f.join("s/00000.tar"), tar(&moved)).unwrap();
    let (_, err) = expect(0, &f, &[&RESTORE[..], &["--gallery", "s.index", "--neighbours", "8"]].concat());
    assert!(err.contains("3 of the nearest images are left out"), "{err}");
    let left = of_images(&json(&f.join("x.png.json"))["adaptation"], "path");
    assert!(left.len() == 5 && left.contains(&"00000.tar/1.png".to_owned()), "{left:?}");
    fs::remove_dir_all(f).unwrap();
}

/// Observations of a folder share adapters made from members of tar files, too.
#[test]
fn observations_share_images_in_tar_files() {
    let f = folder("shared-shards");
    fs::create_dir_all(f.join("s")).unwrap();
    let bytes: Vec<Vec<u8>> = (0..8).map(|k| fs::read(f.join(format!("g/{k:016x}.png"))).unwrap()).collect();
    let names: Vec<String> = (0..8).map(|k| format!("{k}.png")).collect();
    let members: Vec<_> = names.iter().zip(&bytes).map(|(name, bytes)| (name.as_str(), b'0', &bytes[..])).collect();
    fs::write(f.join("s/0.tar"), tar(&members)).unwrap();
    expect(0, &f, &["index", "build", "s", "--shards", "-q"]);
    for k in 0..2 {
        part(&f.join(format!("ys/{k}.png")), 60 + k, 60, 32);
    }
    let args = ["restore", "ys", "-o", "xs", "--task", "sr2", "--steps", "1", "--gallery", "s.index", "--overlap", "0"];
    let (_, err) = expect(0, &f, &[&args[..], &RESTORE[9..]].concat());
    assert!(!err.contains("warning"), "{err}");
    let images = of_images(&json(&f.join("xs/1.png.json"))["adaptation"], "path");
    assert!(images.iter().all(|path| path.starts_with("0.tar/")) && images.len() >= 6, "{images:?}");
    fs::remove_dir_all(f).unwrap();
}

/// Of a folder only what a list names is indexed; the difference is told once.
#[test]
fn lists_choose_images() {
    let f = folder("lists");
    let ids = [0, 2, 3, 90, 91, 92].map(|k| format!("{k:016x},train,https://a/{k}.jpg,\"a, b\"\n"));
    fs::write(f.join("ids.csv"), format!("ImageID,Subset,OriginalURL,Title\n{}", ids.concat())).unwrap();
    fs::write(f.join("more.txt"), format!("validation/{:016x}\n", 5)).unwrap();
    let (_, err) = expect(0, &f, &["index", "build", "g", "--list", "ids.csv", "more.txt", "-o", "i.index"]);
    assert!(err.contains("i.index: 4 images"), "{err}");
    assert!(err.contains("3 of the 7 images of the list are not in the folder, the first: 000000000000005a"), "{err}");
    assert!(err.contains("4 of 8 images are not in the list and are left out"), "{err}");
    assert_eq!(err.matches("warning").count(), 2, "{err}");
    let (out, _) = expect(0, &f, &["index", "search", "i.index", "y.png", "-k", "9"]);
    let mut found: Vec<&str> = out.lines().map(|line| &line[7..]).collect();
    found.sort_unstable();
    assert_eq!(found, [0, 2, 3, 5].map(|k| format!("{k:016x}.png")));
    for (args, code, hint) in [
        (&["--list", "missing.csv"][..], 3, "missing.csv"),
        (&["--list", "ids.csv", "--list-column", "Id"], 3, "no column \"Id\""),
        (&["--list", "y.png"], 3, "y.png"),
        (&["--list-column", "Id"], 2, "--list"),
    ] {
        let (_, err) = expect(code, &f, &[&["index", "build", "g", "-o", "j.index"], args].concat());
        assert!(err.contains(hint), "{hint}: {err}");
    }
    fs::write(f.join("none.txt"), "x\ny\n").unwrap();
    let (_, err) = expect(3, &f, &["index", "build", "g", "--list", "none.txt", "-o", "j.index"]);
    assert!(err.contains("has none of the 2 images of the list") && !f.join("j.index").exists(), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// A gallery is searched by y, by a first restoration, or by both.
#[test]
fn a_first_restoration_finds_neighbours() {
    let f = folder("query");
    // One sample of the prior as it is.
    expect(0, &f, &["restore", "y.png", "-o", "first.png", "--task", "sr2", "--steps", "1"]);
    let gallery = ["--gallery", "g", "--neighbours", "8"];
    let distances = |adaptation: &Value| -> Vec<f64> {
        adaptation["images"].as_array().unwrap().iter().map(|image| image["distance"].as_f64().unwrap()).collect()
    };
    let searched = |images: &[&str]| -> Vec<f64> {
        let (out, _) = expect(0, &f, &[&["index", "search", "g"], images, &["-k", "8", "--json"]].concat());
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["distance"].as_f64().unwrap()).collect()
    };
    let (usual, bytes) = adapted(&f, &gallery);
    let (by_y, same) = adapted(&f, &[&gallery[..], &["--query", "y"]].concat());
    assert_eq!((distances(&by_y), &same), (distances(&usual), &bytes));
    assert!(by_y.get("query").is_none());
    for (query, name, images) in
        [("first", "restoration", &["first.png"][..]), ("both", "both", &["y.png", "first.png"])]
    {
        let (record, _) = adapted(&f, &[&gallery[..], &["--query", query]].concat());
        assert_eq!(record["query"], name);
        let (found, expected) = (distances(&record), searched(images));
        // The file is rounded to 8 bits.
        let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 2e-2);
        assert!(close && found.len() == 8, "{query}: {found:?} {expected:?}");
        assert_ne!(found, distances(&by_y));
        expect(0, &f, &["replay", "x.png.json"]);
    }
    for (args, hint) in [
        (
            &["restore", "y.png", "-o", "z.png", "--task", "sr2", "--query", "first"][..],
            "--query has no effect without",
        ),
        (
            &["restore", "y.png", "-o", "z.png", "--task", "sr2", "--adapt", "self", "--query", "both"],
            "--query has no effect",
        ),
        (
            &["adapt", "create", "y.png", "--gallery", "g", "--query", "first", "-o", "a.safetensors"],
            "nothing is restored",
        ),
    ] {
        let (_, err) = expect(2, &f, args);
        assert!(err.contains(hint), "{hint}: {err}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// Embeddings by the keys of WebDataset are those of images in tar files.
#[test]
fn keys_are_looked_up_in_tar_files() {
    let f = folder("keys");
    fs::create_dir_all(f.join("s")).unwrap();
    let bytes: Vec<Vec<u8>> = (0..8).map(|k| fs::read(f.join(format!("g/{k:016x}.png"))).unwrap()).collect();
    for shard in 0..2 {
        let names: Vec<String> = (0..4).map(|k| format!("{shard:05}{k:04}.seg.png")).collect();
        let members: Vec<_> = names.iter().zip(&bytes[4 * shard..]).map(|(n, b)| (n.as_str(), b'0', &b[..])).collect();
        fs::write(f.join(format!("s/{shard:05}.tar")), tar(&members)).unwrap();
    }
    expect(0, &f, &["index", "build", "s", "--shards", "-q", "-o", "built.index"]);
    let built = adir::retrieve::Index::open(&f.join("built.index")).unwrap();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (8, {}), }}", built.encoder().dimension);
    let mut npy = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    let mut keys = String::new();
    for id in (0..8).rev() {
        npy.extend(built.vector(id).unwrap().iter().flat_map(|v| v.to_le_bytes()));
        let path = built.entry(id).unwrap().path;
        keys += &format!("{}\n", path.split(['/', '.']).nth(2).unwrap());
    }
    fs::write(f.join("e.npy"), npy).unwrap();
    fs::write(f.join("keys.txt"), &keys).unwrap();
    let import = ["index", "import", "e.npy", "--names", "keys.txt", "--folder", "s", "--shards", "-o", "i.index"];
    expect(0, &f, &import);
    let search = |index: &str| expect(0, &f, &["index", "search", index, "y.png", "-k", "9"]).0;
    assert_eq!(search("i.index"), search("built.index"));
    let (record, _) = adapted(&f, &["--gallery", "i.index", "--neighbours", "5"]);
    assert!(of_images(&record, "path")[0].contains(".tar/"), "{record}");
    let (_, err) = expect(3, &f, &[&import[..6], &["g", "--shards", "-o", "j.index"]].concat());
    assert!(err.contains("contains no .tar files"), "{err}");
    fs::write(f.join("keys.txt"), keys.replace("000000003", "000000009")).unwrap();
    let (_, err) = expect(3, &f, &[&import[..], &["--overwrite"]].concat());
    assert!(err.contains("keys.txt: \"000000009\" is no image in the .tar files"), "{err}");
    fs::copy(f.join("s/00000.tar"), f.join("s/copy.tar")).unwrap();
    let (_, err) = expect(3, &f, &[&import[..], &["--overwrite"]].concat());
    assert!(err.contains("have the same key"), "{err}");
    fs::remove_dir_all(f).unwrap();
}
