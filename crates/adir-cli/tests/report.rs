//! Maps of where samples differ, the page, the verdict, replays, pipes, and what the program says of itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use adir::io::image::{BitDepth, Picture};
use adir::tensor::to_f32;
use serde_json::Value;

mod common;
use common::{checked, example, json};

fn adir(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adir"));
    command.args(args).current_dir(folder).env_remove("NO_COLOR").env("XDG_CACHE_HOME", folder.join("cache"));
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().unwrap();
    // Not all of it is read by a run that refuses something first.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// Runs, checks the exit code, and returns what went to stdout and stderr.
#[track_caller]
fn expect(code: i32, folder: &Path, args: &[&str]) -> (String, String) {
    checked(code, args, adir(folder, args, b""))
}

/// A folder of its own with a small observation `y.png` in it.
fn folder(name: &str) -> PathBuf {
    let folder = common::folder(name);
    fs::copy(example("cat_small.png"), folder.join("x.png")).unwrap();
    expect(0, &folder, &["degrade", "x.png", "-o", "y.png", "--task", "sr4"]);
    fs::remove_file(folder.join("x.png")).unwrap();
    folder
}

const SR4: [&str; 4] = ["--task", "sr4", "--steps", "4"];

fn restore<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["restore"], more, &SR4].concat()
}

/// File values of a picture, 0 to 255.
fn levels(path: &Path) -> Vec<f32> {
    to_f32(&Picture::read(path).unwrap().tensor).unwrap().into_iter().map(|v| (v + 1.0) * 127.5).collect()
}

#[test]
fn samples_come_with_maps_that_are_recorded_and_refused_like_them() {
    let f = folder("maps");
    let run = restore(&["y.png", "-o", "x.png", "-n", "3", "--aim", "1"]);
    expect(0, &f, &run);
    let map = Picture::read(f.join("x.std.png")).unwrap();
    assert_eq!((map.bit_depth, map.tensor.dims()), (BitDepth::Sixteen, [1, 3, 64, 64]));
    let samples: Vec<Vec<f32>> = (1..=3).map(|k| levels(&f.join(format!("x.{k}.png")))).collect();
    let told: Vec<f32> = to_f32(&map.tensor).unwrap().into_iter().map(|v| (v + 1.0) / 2.0 * 65535.0 / 256.0).collect();
    let mut most = 0.0_f32;
    for (i, told) in told.iter().enumerate() {
        let mean = samples.iter().map(|s| s[i]).sum::<f32>() / 3.0;
        let deviation = (samples.iter().map(|s| (s[i] - mean).powi(2)).sum::<f32>() / 2.0).sqrt();
        assert!((deviation - told).abs() < 0.75, "value {i}: {deviation} of the files, {told} in the map");
        most = most.max(*told);
    }
    assert!(most > 3.0, "samples of detail differ: {most}");
    assert_eq!(Picture::read(f.join("x.heat.png")).unwrap().tensor.dims(), [1, 3, 64, 64]);
    let record = json(&f.join("x.png.json"));
    assert!((record["deviation"]["most_255"].as_f64().unwrap() - f64::from(most)).abs() < 0.01, "{record}");
    assert_eq!(record["deviation"]["level_per_step"], 1.0 / 256.0);
    let names: Vec<&str> = record["results"].as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["x.png", "x.1.png", "x.2.png", "x.3.png", "x.std.png", "x.heat.png"]);

    // Maps of an earlier run stay, and are named.
    let (_, err) = expect(0, &f, &restore(&["y.png", "-o", "x.png", "--overwrite"]));
    assert!(
        err.contains("3 samples of an earlier run") && err.contains("x.std.png: this map of an earlier run"),
        "{err}"
    );
    assert!(json(&f.join("x.png.json")).get("deviation").is_none());
    // A file of that name is replaced only if asked to, and an input never.
    for name in ["x.png", "x.png.json", "x.1.png", "x.2.png", "x.3.png"] {
        fs::remove_file(f.join(name)).unwrap();
    }
    let (_, err) = expect(2, &f, &run);
    assert!(err.contains("x.std.png already exists"), "{err}");
    fs::rename(f.join("y.png"), f.join("x.heat.png")).unwrap();
    let (_, err) = expect(2, &f, &restore(&["x.heat.png", "-o", "x.png", "-n", "2", "--overwrite", "--plan"]));
    assert!(err.contains("x.heat.png: would replace the input"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// What `attribute="..."` holds, all of it.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn the_page_holds_all_it_shows_and_escapes_names() {
    let f = folder("page");
    let name = "y<img src=x>&'\u{202e}.png";
    fs::rename(f.join("y.png"), f.join(name)).unwrap();
    fs::create_dir(f.join("g")).unwrap();
    let image = |name: &str| {
        let picture = Picture::read(f.join("x.png")).unwrap();
        picture.write(f.join("g").join(name)).unwrap();
    };
    expect(0, &f, &restore(&[name, "-o", "x.png"]));
    image("<script>alert(1)<script>.png");
    let adapt =
        ["--gallery", "g", "--adapt", "gallery", "--iterations", "1", "--adapt-batch", "1", "--adapt-crop", "32"];
    let args = [&restore(&[name, "-o", "<i>.png", "-n", "2", "--report", "r.html"])[..], &adapt].concat();
    let (_, err) = expect(0, &f, &args);
    let page = fs::read_to_string(f.join("r.html")).unwrap();
    assert!(page.contains("y&lt;img src=x&gt;&amp;&#39;\\u{202e}.png"), "the name of the observation");
    assert!(page.contains("<h1>&lt;i&gt;.png</h1>") && page.contains("&lt;script&gt;alert(1)"));
    assert!(!page.contains("<img src=x>") && !page.contains("<i>.png") && !page.contains("<script>alert"));
    // Input, result, overlay and one neighbour; nothing comes from elsewhere.
    let sources = values(&page, "src");
    assert_eq!(sources.len(), 4, "{}", sources.len());
    assert!(sources.iter().all(|source| source.starts_with("data:image/png;base64,iVBORw0KGgo")));
    assert!(values(&page, "href").is_empty() && !page.contains("url(") && !page.contains("@import"));
    assert!(!page.contains("http:") && !page.contains("https:"), "no address");
    // Keyboard, small screens, the dark.
    assert!(page.contains("<input type=\"range\"") && page.contains("aria-label="));
    assert!(page.contains("name=\"viewport\"") && page.contains("prefers-color-scheme: dark"));
    for part in
        ["Where 2 samples differ", "bias of A x - y, blue", "black or white", "<td>seed</td>", "rule: ", "preset"]
    {
        assert!(page.contains(part), "{part}");
    }
    // The verdict of the page is that of the terminal, in its last line.
    let word = err.lines().last().unwrap().split(' ').next().unwrap();
    assert!(["PASS", "WARN"].contains(&word) && page.contains(&format!("<title>{word}: ")), "{err}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn a_page_replaces_nothing_else() {
    let f = folder("refused");
    for (report, said) in [("y.png", "would replace the input"), ("x.png", "two outputs"), ("there", "already exists")]
    {
        fs::write(f.join("there"), "precious").unwrap();
        let (_, err) = expect(2, &f, &restore(&["y.png", "-o", "x.png", "--report", report, "--plan"]));
        assert!(err.contains(said), "{report}: {err}");
    }
    assert!(!f.join("x.png").exists());
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn a_wrong_noise_level_is_a_warning_and_no_failure() {
    let f = folder("verdict");
    expect(0, &f, &["degrade", "y.png", "-o", "b.png", "--task", "deblur", "--kernel", "box:5", "--sigma", "20"]);
    let of = |sigma: &str, more: &[&str]| {
        let args = ["restore", "b.png", "-o", "x.png", "--task", "deblur", "--kernel", "box:5", "--overwrite"];
        expect(0, &f, &[&args[..], &["--sigma", sigma], more].concat()).1
    };
    assert!(of("20", &[]).lines().last().unwrap().starts_with("PASS x.png: "));
    assert!(of("1", &[]).lines().last().unwrap().starts_with("WARN x.png: "));
    assert!(of("1", &["--quiet"]).lines().last().unwrap().starts_with("WARN ") && of("20", &["--quiet"]).is_empty());
    let log = of("1", &["--log-format", "json"]);
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["verdict"]), (&"verdict".into(), &"WARN".into()), "{last}");
    assert!(last["findings"]["misfit_255"].as_f64() > last["findings"]["allowed_255"].as_f64(), "{last}");
    // What -v adds, and only it: settings with their sources, and times.
    let (usual, verbose) = (of("20", &[]), of("20", &["-v"]));
    assert!(!usual.contains("preset") && !usual.contains("loading"), "{usual}");
    for part in ["method               staged", "loading embedded prior", " s to sample"] {
        assert!(verbose.contains(part), "{part}: {verbose}");
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn a_record_repeats_its_run_to_the_byte() {
    let f = folder("replay");
    let run = restore(&["y.png", "-o", "out/x.png", "-n", "2", "--aim", "1", "--seed", "5"]);
    expect(0, &f, &run);
    let (out, _) = expect(0, &f, &["replay", "out/x.png.json"]);
    assert!(out.contains("x.heat.png") && out.ends_with("the run repeats\n"), "{out}");
    // From another folder, keeping the result.
    let elsewhere = f.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    expect(0, &elsewhere, &["replay", "../out/x.png.json", "-o", "again.png"]);
    for name in ["x.png", "x.1.png", "x.std.png"] {
        let again = elsewhere.join(name.replace("x.", "again."));
        assert_eq!(fs::read(f.join("out").join(name)).unwrap(), fs::read(again).unwrap(), "{name}");
    }
    assert_eq!(json(&elsewhere.join("again.png.json"))["seed"], 5);
    expect(0, &elsewhere, &["replay", "again.png.json"]);
    for (output, said) in [("again.png", "already exists"), ("again.tif", "same format"), ("../out/x.png", "replace")] {
        let mut args = vec!["replay", "../out/x.png.json", "-o", output];
        args.extend((output == "../out/x.png").then_some("--overwrite"));
        assert!(expect(2, &elsewhere, &args).1.contains(said), "{output}");
    }
    // A record of another run: the seed is another one.
    let record = fs::read_to_string(f.join("out/x.png.json")).unwrap();
    fs::write(f.join("out/x.png.json"), record.replace("\"seed\": 5", "\"seed\": 6")).unwrap();
    let (out, _) = expect(1, &f, &["replay", "out/x.png.json", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&answer["agree"], &answer["files"][0]["agrees"]), (&false.into(), &false.into()), "{answer}");
    // A record of an earlier version names no files: those that are there count.
    let mut old: Value = serde_json::from_str(&record).unwrap();
    for field in ["results", "deviation", "instructions"] {
        old.as_object_mut().unwrap().remove(field);
    }
    fs::write(f.join("out/x.png.json"), old.to_string()).unwrap();
    expect(0, &f, &["replay", "out/x.png.json"]);
    fs::copy(f.join("out/x.1.png"), f.join("out/x.png")).unwrap();
    let (out, _) = expect(1, &f, &["replay", "out/x.png.json"]);
    assert!(out.contains("DIFFERENT bytes") && out.contains("differ by up to"), "{out}");
    // The observation is another one.
    fs::write(f.join("out/x.png.json"), &record).unwrap();
    fs::copy(f.join("out/x.1.png"), f.join("y.png")).unwrap();
    let (_, err) = expect(3, &f, &["replay", "out/x.png.json"]);
    assert!(err.contains("y.png") && err.contains("is not the file of the run"), "{err}");
    expect(3, &f, &["replay", "y.png"]);
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn an_image_goes_through_a_pipe() {
    let f = folder("pipe");
    expect(0, &f, &restore(&["y.png", "-o", "x.png"]));
    let y = fs::read(f.join("y.png")).unwrap();
    let output = adir(&f, &restore(&["-", "-o", "-", "--record", "r.json"]), &y);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == fs::read(f.join("x.png")).unwrap(), "the same bytes as in the file");
    assert!(String::from_utf8_lossy(&output.stderr).contains("PASS <stdout>: "));
    let record = json(&f.join("r.json"));
    assert_eq!(record["input"]["sha256"], json(&f.join("x.png.json"))["input"]["sha256"]);
    assert_eq!((&record["request"], &record["input"]["path"]), (&Value::Null, &Value::Null));
    let (_, err) = expect(3, &f, &["replay", "r.json"]);
    assert!(err.contains("does not hold its request"), "{err}");
    // Without --record there is none, and nothing else is left.
    let before = fs::read_dir(&f).unwrap().count();
    assert!(adir(&f, &restore(&["y.png", "-o", "-"]), b"").stdout.starts_with(b"\x89PNG"));
    assert_eq!(fs::read_dir(&f).unwrap().count(), before);
    let named = f.join("sub");
    fs::create_dir(&named).unwrap();
    fs::copy(f.join("y.png"), named.join("-")).unwrap();
    expect(0, &named, &restore(&["./-", "-o", "x.png"]));
    // What is no image, and what is too much for one stream.
    for (code, args, stdin, said) in [
        (3, restore(&["-", "-o", "-"]), &b""[..], "<stdin>"),
        (3, restore(&["-", "-o", "-"]), b"text of some length", "<stdin>: is not a PNG"),
        (2, restore(&["-", "-o", "-", "-n", "2"]), &y[..], "-o FILE"),
    ] {
        let output = adir(&f, &args, stdin);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), err.contains(said)), (Some(code), true), "{err}");
        assert!(output.stdout.is_empty());
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn the_program_describes_the_machine_and_itself() {
    let f = folder("doctor");
    let (out, _) = expect(0, &f, &["doctor", "--cache", "c"]);
    for part in ["instructions", "threads", "memory", "cpu            usable", "0 files, 0.0 kB", "cache          c"] {
        assert!(out.contains(part), "{part}:\n{out}");
    }
    assert!(cfg!(feature = "cuda") || out.contains("not usable: this program was built without cuda"), "{out}");
    fs::create_dir_all(f.join("c/adapters")).unwrap();
    fs::write(f.join("c/adapters/a.safetensors"), [0; 1500]).unwrap();
    let (out, _) = expect(0, &f, &["doctor", "--cache", "c", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["adapters"], serde_json::json!({"files": 1, "bytes": 1500}));
    assert_eq!((&answer["cpu"]["usable"], answer["threads"]["used"].as_u64() > Some(0)), (&true.into(), true));
    fs::write(f.join("file"), "").unwrap();
    assert!(expect(0, &f, &["doctor", "--cache", "file"]).0.contains("cache          not usable: "));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (out, _) = expect(0, &f, &["completions", shell]);
        assert!(out.contains("restore") && out.contains("report"), "{shell}");
    }
    expect(2, &f, &["completions", "csh"]);
    assert!(expect(0, &f, &["man"]).0.contains(".TH adir 1"));
    let (page, _) = expect(0, &f, &["man", "adapt", "create"]);
    assert!(page.contains(".TH adir-adapt-create 1") && page.contains("archive"), "{page}");
    expect(2, &f, &["man", "nothing"]);
    expect(0, &f, &["man", "-o", "man"]);
    assert!(["adir.1", "adir-restore.1", "adir-adapt-create.1"].iter().all(|name| f.join("man").join(name).is_file()));
    assert!(expect(2, &f, &["man", "-o", "man"]).1.contains("already exists"));
    fs::remove_dir_all(f).unwrap();
}

/// A terminal gets colours, but not if it is told that none are wanted.
#[cfg(target_os = "linux")]
#[test]
fn no_colour_is_honoured() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    }
    let f = folder("colour");
    let on_terminal = |variable: &str| {
        let command = format!(
            "TERM=xterm {variable} '{}' restore y.png -o x.png --overwrite {}",
            env!("CARGO_BIN_EXE_adir"),
            SR4.join(" ")
        );
        let output = Command::new("script").args(["-qec", &command, "/dev/null"]).current_dir(&f).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let coloured = on_terminal("");
    assert!(coloured.contains("\u{1b}[32mPASS\u{1b}[0m x.png"), "{coloured:?}");
    let plain = on_terminal("NO_COLOR=1");
    assert!(plain.contains("PASS x.png") && !plain.contains("\u{1b}[32m"), "{plain:?}");
    fs::remove_dir_all(f).unwrap();
}
