//! Requests, plans and records.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::Error;
use crate::compute::Precision;
use crate::io::image::{BitDepth, ImageFormat, Picture};
use crate::noise::{Noise, Stream};
use crate::problem::{Problem, Sigma};
use crate::tensor::{DType, cpu, to_f32};

pub(super) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-engine-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A smooth picture of 16x16 pixels.
pub(super) fn picture(seed: u64) -> Picture {
    let noise = Noise::new(seed, Stream::Evaluation).normal_tensor(0, [1, 3, 4, 4], &cpu(), DType::F32);
    let tensor = crate::operator::bicubic_upsample(&(noise * 0.3), 4).unwrap();
    let mut picture = Picture::from_tensor(tensor);
    (picture.bit_depth, picture.format) = (BitDepth::Eight, ImageFormat::Png);
    picture
}

pub(super) fn go(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn config_error(found: crate::Result<Plan>) -> String {
    match found {
        Err(Error::Config(message)) => message,
        other => panic!("expected a configuration error, found {other:?}"),
    }
}

/// What can be refused without the weights is refused although their file is missing.
#[test]
fn a_plan_refuses_before_the_weights_are_read() {
    let f = folder("refuse");
    picture(1).write(f.join("y.png")).unwrap();
    let mut with_alpha = picture(1);
    with_alpha.alpha = Some(vec![0.5; 256]);
    with_alpha.write(f.join("rgba.png")).unwrap();
    let engine = Engine::builder().model(f.join("missing.safetensors"), None).build().unwrap();
    let request = || Request::new(f.join("y.png"), Problem::super_resolution(2));
    let mut adapt = Adapt::to_itself();
    adapt.overrides.learning_rate = Some(7.0);
    assert!(config_error(engine.plan(&request().adapt(adapt))).contains("learning rate 7"));
    assert!(config_error(engine.plan(&request().adapt(Adapt::to_itself().iterations(0)))).contains("0 training steps"));
    let alpha = Request::new(f.join("rgba.png"), Problem::super_resolution(2)).output(f.join("x.jpg"));
    assert!(config_error(engine.plan(&alpha)).contains("alpha"));
    let long = f.join(format!("{}.png", "n".repeat(300)));
    assert!(config_error(engine.plan(&request().output(long))).contains("304 bytes"));
    // The record's name is longer by five bytes than the image's.
    let just = f.join(format!("{}.png", "n".repeat(247)));
    assert!(config_error(engine.plan(&request().output(just))).contains("256 bytes"));
    assert!(config_error(engine.plan(&request().samples(0))).contains("0 samples"));
    let mut eta = request();
    eta.sampling.overrides.eta = Some(2.0);
    assert!(config_error(engine.plan(&eta)).contains("eta = 2"));
    assert!(config_error(engine.plan(&Request::new(f.join("y.png"), Problem::denoise(0.0)))).contains("noise level"));
    // With nothing else wrong, the missing file is.
    assert!(matches!(engine.plan(&request()), Err(Error::Model { .. })));
    std::fs::remove_dir_all(f).unwrap();
}

/// What the size alone makes too large is refused before the values are looked at, which would find them wrong.
#[test]
fn large_images_are_refused_by_their_size() {
    let nowhere = crate::tensor::from_f32(vec![f32::NAN; 1024 * 1024], [1, 1, 1024, 1024], &cpu());
    let request = |problem| Request::new(Picture::from_tensor(nowhere.clone()), problem);
    let planned = |problem, memory| Engine::builder().memory(memory).build().unwrap().plan(&request(problem));
    for problem in [Problem::deblur("box:5"), Problem::super_resolution(2)] {
        assert!(matches!(planned(problem.clone(), Some(200 << 20)), Err(Error::Limits(_))));
        assert!(matches!(planned(problem, None), Err(Error::Numerical(_))));
    }
}

/// A hole that was cut out of alpha, too, is filled with what can be seen.
#[test]
fn a_filled_hole_is_opaque() {
    let mut y = picture(1);
    let hole = |i: usize| (100..104).contains(&i);
    y.alpha = Some((0..256).map(|i| if hole(i) { 0.0 } else { 1.0 }).collect());
    let known = (0..256).map(|i| !hole(i)).collect();
    let mask = crate::operator::Mask::new(16, 16, known).unwrap();
    let problem = Problem::inpaint(crate::problem::MaskSource::Pixels(mask));
    let engine = Engine::builder().build().unwrap();
    let restored = engine.run(&engine.plan(&Request::new(y, problem).steps(2)).unwrap(), &go).unwrap();
    assert_eq!(restored.mean.alpha, Some(vec![1.0; 256]));
}

/// A gallery is searched by text only with an encoder that embeds text, which the embedded one does not.
#[test]
fn an_adaptation_to_text_needs_an_encoder_of_text() {
    let f = folder("text");
    std::fs::create_dir(f.join("gallery")).unwrap();
    picture(1).write(f.join("gallery/a.png")).unwrap();
    let adapt = Adapt::to_text(f.join("gallery"), "a lighthouse");
    assert_eq!(adapt.keep, Keep::Always, "held-out images say nothing of a text");
    assert_eq!(adapt.target, Target::Text { gallery: f.join("gallery"), prompt: "a lighthouse".into() });
    let engine = Engine::builder().build().unwrap();
    let planned = engine.plan(&Request::new(picture(2), Problem::super_resolution(2)).adapt(adapt));
    let message = planned.unwrap_err().to_string();
    assert!(message.contains("efficientnet-lite0 cannot embed text"), "{message}");
    std::fs::remove_dir_all(f).unwrap();
}

/// An output must not destroy what the request reads, also where existing files may be replaced.
#[test]
fn outputs_that_would_replace_inputs_are_refused() {
    let f = folder("inputs");
    picture(1).write(f.join("y.png")).unwrap();
    picture(2).write(f.join("m.png")).unwrap();
    std::fs::write(f.join("k.png.json"), "1 1\n1 1\n").unwrap();
    let engine = Engine::builder().build().unwrap();
    let refused = |problem: Problem, adapt: Option<Adapt>, output: &str| {
        let mut request = Request::new(f.join("y.png"), problem);
        request.adapt = adapt;
        request.output = Some(OutputRequest::new(f.join(output), true));
        config_error(engine.plan(&request))
    };
    let mask = Problem::inpaint(f.join("m.png").as_path());
    assert!(refused(mask, None, "m.png").contains("would replace the input"));
    let kernel = Problem::deblur(f.join("k.png.json").to_str().unwrap());
    assert!(refused(kernel, None, "k.png").contains("k.png.json"), "the record counts, too");
    let adapter = Adapt::new(Target::Adapter(f.join("m.png")));
    assert!(refused(Problem::super_resolution(2), Some(adapter), "m.png").contains("m.png"));
    std::fs::remove_dir_all(f).unwrap();
}

/// Names that are not Unicode are shown as well as possible; nothing is lost at the end.
#[cfg(unix)]
#[test]
fn names_that_are_not_unicode_are_recorded() {
    use std::os::unix::ffi::OsStrExt;
    let f = folder("names");
    let name = |bytes: &[u8]| f.join(std::ffi::OsStr::from_bytes(bytes));
    picture(1).write(name(b"y\xff.png")).unwrap();
    let engine = Engine::builder().build().unwrap();
    let request = Request::new(name(b"y\xff.png"), Problem::super_resolution(2)).steps(1).output(name(b"x\xfe.png"));
    let mut restored = engine.run(&engine.plan(&request).unwrap(), &go).unwrap();
    restored.save(&engine).unwrap();
    let record = Record::read(name(b"x\xfe.png.json")).unwrap();
    assert!(record.input.path.unwrap().to_str().unwrap().ends_with("y\u{fffd}.png"));
    std::fs::remove_dir_all(f).unwrap();
}

#[test]
fn unknown_keys_of_a_request_are_refused() {
    let text = r#"{"input": "y.png", "problem": {"task": "deblur", "kernel": "box:5", "sigma": 2}, "sampling": {"seed": 3},
        "adapt": {"target": {"gallery": "scans"}, "keep": "always", "overrides": {"iterations": 4}}}"#;
    let request = Request::from_json(text).unwrap();
    let again = Request::from_json(&serde_json::to_string(&request).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(&request).unwrap(), serde_json::to_value(&again).unwrap());
    assert_eq!(
        (again.sampling.seed, again.problem.sigma, again.adapt.unwrap().neighbours),
        (3, Some(Sigma::Levels(2.0)), 20)
    );
    for (good, bad) in [("\"seed\"", "\"sead\""), ("\"sigma\"", "\"sigmas\""), ("\"iterations\"", "\"steps\"")] {
        let message = Request::from_json(&text.replace(good, bad)).unwrap_err().to_string();
        assert!(message.contains("unknown field"), "{bad}: {message}");
    }
}

/// The record of a run is enough to repeat it.
#[test]
fn a_run_is_repeated_from_its_record() {
    let f = folder("record");
    picture(2).write(f.join("y.png")).unwrap();
    let engine = Engine::builder().cache(FolderCache::new(f.join("cache"))).build().unwrap();
    let mut adapt = Adapt::to_itself().iterations(2).seed(5);
    adapt.overrides.batch = Some(1);
    let request = Request::new(f.join("y.png"), Problem::super_resolution(2))
        .adapt(adapt)
        .steps(3)
        .samples(2)
        .seed(4)
        .output(f.join("x.png"));
    let mut first = engine.run(&engine.plan(&request).unwrap(), &go).unwrap();
    first.save(&engine).unwrap();
    let record = Record::read(f.join("x.png.json")).unwrap();
    let adaptation = record.adaptation.as_ref().unwrap();
    assert!(adaptation.used && !adaptation.from_cache && adaptation.settings.seed == 5);
    assert_eq!(record.agreement_psnr, first.record.agreement_psnr);
    let mut again = record.request.unwrap();
    again.output = None;
    let other = Engine::builder().build().unwrap();
    let second = other.run(&other.plan(&again).unwrap(), &go).unwrap();
    assert!(!second.record.adaptation.unwrap().from_cache, "an engine without a cache trains again");
    assert_eq!(to_f32(&first.mean.tensor).unwrap(), to_f32(&second.mean.tensor).unwrap());
    std::fs::remove_dir_all(f).unwrap();
}

/// Requests that run at the same time in one process compute what each computes alone: no switch is shared.
#[test]
fn requests_run_side_by_side() {
    let bf16 = crate::tensor::Isa::has_bf16_products();
    let engine = |precision| Engine::builder().precision(precision).build().unwrap();
    let full = engine(Precision::F32);
    let half = engine(if bf16 { Precision::Bf16 } else { Precision::F32 });
    let request = |seed| Request::new(picture(seed), Problem::super_resolution(4)).steps(6).seed(seed);
    let run = |engine: &Engine, seed| {
        let restored = engine.run(&engine.plan(&request(seed)).unwrap(), &go).unwrap();
        to_f32(&restored.mean.tensor).unwrap()
    };
    let alone = (run(&full, 1), run(&half, 1));
    assert_eq!(alone.0 != alone.1, bf16, "bf16 products change the numbers");
    let stopped = Mutex::new(0);
    let cancelled = || {
        let plan = full.plan(&request(2)).unwrap();
        full.run(&plan, &|event| match event {
            Event::Sampling { step, .. } => {
                *stopped.lock().unwrap() = *step;
                if *step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        })
    };
    let together = std::thread::scope(|scope| {
        let a = scope.spawn(|| run(&full, 1));
        let b = scope.spawn(|| run(&half, 1));
        let c = scope.spawn(cancelled);
        assert!(matches!(c.join().unwrap(), Err(Error::Interrupted)));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!(*stopped.lock().unwrap(), 3, "nothing follows a break");
    assert!(together == alone, "side by side, the numbers changed");
    let after = run(&full, 2);
    assert!(after == run(&engine(Precision::F32), 2), "a cancelled run leaves nothing behind");
}

/// A damaged entry of the cache is made anew, with a warning.
#[test]
fn a_damaged_adapter_is_made_anew() {
    let f = folder("damaged");
    let engine = Engine::builder().cache(FolderCache::new(f.join("cache"))).build().unwrap();
    let mut adapt = Adapt::to_itself().iterations(1);
    adapt.overrides.batch = Some(1);
    let plan = engine.plan(&Request::new(picture(3), Problem::super_resolution(2)).adapt(adapt).steps(1)).unwrap();
    let first = engine.run(&plan, &go).unwrap();
    let entry = std::fs::read_dir(f.join("cache/adapters")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&entry, "damaged").unwrap();
    let warnings = Mutex::new(Vec::new());
    let second = engine
        .run(&plan, &|event| {
            if let Event::Warning { message } = event {
                warnings.lock().unwrap().push(message.clone());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(warnings.lock().unwrap().iter().any(|w| w.contains("made anew")), "{warnings:?}");
    assert_eq!(to_f32(&first.mean.tensor).unwrap(), to_f32(&second.mean.tensor).unwrap());
    let third = engine.run(&plan, &go).unwrap();
    assert!(third.record.adaptation.unwrap().from_cache, "the new entry is whole");
    std::fs::remove_dir_all(f).unwrap();
}

/// A gallery of six pictures, and small settings for it.
fn small(f: &std::path::Path, target: impl Fn(PathBuf) -> Target) -> Adapt {
    let gallery = f.join("gallery");
    std::fs::create_dir_all(&gallery).unwrap();
    for seed in 10..16 {
        picture(seed).write(gallery.join(format!("{seed}.png"))).unwrap();
    }
    let mut adapt = Adapt::new(target(gallery)).keep(Keep::Always);
    adapt.overrides.crop = Some(16);
    adapt
}

/// Minutes become a number of steps, which the record and the cache know: the same request does the same again.
#[test]
fn minutes_become_steps_that_are_repeated() {
    let f = folder("minutes");
    let mut adapt = small(&f, Target::Gallery);
    adapt.overrides.minutes = Some(0.01);
    let engine = Engine::builder().cache(FolderCache::new(f.join("cache"))).build().unwrap();
    let y = f.join("y.png");
    picture(2).write(&y).unwrap();
    let request = Request::new(y, Problem::super_resolution(2)).adapt(adapt.clone()).steps(2);
    let run = |engine: &Engine, request: &Request| engine.run(&engine.plan(request).unwrap(), &go).unwrap();
    let first = run(&engine, &request);
    let record = first.record.adaptation.as_ref().unwrap();
    let steps = record.settings.iterations;
    assert!(steps >= 25 && steps.is_multiple_of(25) && steps < 10_000, "{steps}");
    let again = run(&engine, &request);
    let found = again.record.adaptation.as_ref().unwrap();
    assert!(found.from_cache && found.key == record.key, "the same minutes are the same steps");
    let repeated = first.record.request.clone().unwrap();
    let overrides = repeated.adapt.as_ref().unwrap().overrides.clone();
    assert_eq!((overrides.minutes, overrides.iterations), (None, Some(steps)));
    let elsewhere = run(&Engine::builder().build().unwrap(), &repeated);
    assert_eq!(to_f32(&elsewhere.mean.tensor).unwrap(), to_f32(&first.mean.tensor).unwrap());
    adapt.overrides.iterations = Some(4);
    let both = Request::new(picture(2), Problem::super_resolution(2)).adapt(adapt);
    assert!(config_error(engine.plan(&both)).contains("not both"));
    std::fs::remove_dir_all(f).unwrap();
}

/// What the images of an archive take counts, before anything is trained.
#[test]
fn an_archive_that_does_not_fit_is_refused() {
    let f = folder("large-archive");
    let adapt = small(&f, Target::Archive).iterations(1);
    let need = Engine::builder().build().unwrap().plan_adaptation(&adapt, crate::task::Preset::Fast).unwrap().memory();
    // Five of the six images, of 3 x 256 values.
    let engine = Engine::builder().memory(Some(need + 5 * 4 * 768)).build().unwrap();
    let plan = engine.plan_adaptation(&adapt, crate::task::Preset::Fast).unwrap();
    let refused = engine.adapt_to_archive(&plan, "a".into(), None, &go).unwrap_err();
    assert!(matches!(refused, Error::Limits(_)), "{refused}");
    std::fs::remove_dir_all(f).unwrap();
}

/// An archive's adaptation that was stopped goes on and ends as if it had not been; its adapter is then refined.
#[test]
fn an_archive_s_adaptation_goes_on_where_it_was_stopped() {
    let f = folder("archive");
    let plan = |engine: &Engine, iterations| {
        engine.plan_adaptation(&small(&f, Target::Archive).iterations(iterations), crate::task::Preset::Fast).unwrap()
    };
    let engine = Engine::builder().cache(FolderCache::new(f.join("cache"))).build().unwrap();
    let stop_at = |at: u32| {
        move |event: &Event| match event {
            Event::Adapting { step, .. } if *step == at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let state = f.join("a.checkpoint");
    let stopped = engine.adapt_to_archive(&plan(&engine, 30), "a".into(), Some(&state), &stop_at(12));
    assert!(matches!(stopped, Err(Error::Interrupted)) && state.is_file());
    let taken = Mutex::new(0);
    let count = |event: &Event| {
        *taken.lock().unwrap() += i32::from(matches!(event, Event::Adapting { .. }));
        ControlFlow::Continue(())
    };
    let resumed = engine.adapt_to_archive(&plan(&engine, 30), "a".into(), Some(&state), &count).unwrap();
    assert_eq!(*taken.lock().unwrap(), 60 - 12);
    let other = Engine::builder().build().unwrap();
    let whole = other.adapt_to_archive(&plan(&other, 30), "a".into(), None, &go).unwrap();
    assert_eq!(resumed.info, whole.info);
    let bits = |found: &AdapterFound| {
        let prior = engine.prior(&go).unwrap();
        let params = found.adapter.apply(prior.params()).unwrap();
        params.layout().ids().flat_map(|id| to_f32(&params.flat(id)).unwrap()).collect::<Vec<_>>()
    };
    assert!(bits(&resumed) == bits(&whole));
    let found = engine.adapt_to_archive(&plan(&engine, 30), "a".into(), Some(&state), &go).unwrap();
    assert!(found.from_cache, "the same command again trains nothing");

    let mut refine = small(&f, Target::Gallery).iterations(2);
    refine.start = Some("a".into());
    let request = |adapt| Request::new(picture(2), Problem::super_resolution(2)).adapt(adapt).steps(2);
    let run = |adapt| engine.run(&engine.plan(&request(adapt)).unwrap(), &go).unwrap();
    let refined = run(refine.clone());
    let record = refined.record.adaptation.as_ref().unwrap();
    assert_eq!(record.start.as_ref(), Some(&found.key));
    let plain = run(Adapt::new(Target::Adapter("a".into())));
    assert_ne!(to_f32(&refined.mean.tensor).unwrap(), to_f32(&plain.mean.tensor).unwrap());
    assert!(run(refine).record.adaptation.unwrap().from_cache, "what was refined is kept, too");
    std::fs::remove_dir_all(f).unwrap();
}
