//! Restores a photo with adaptation, cache, four samples and progress:
//! `cargo run --release -p adir --example restore -- y.png x.png GALLERY`.

use std::ops::ControlFlow;

use adir::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (y, x, gallery) = (next("examples/cat_small.png"), next("x.png"), next("examples/gallery"));
    let engine = Engine::builder().cache(FolderCache::new(std::env::temp_dir().join("adir-cache"))).build()?;
    let request = Request::new(y.as_str(), Problem::super_resolution(4))
        .adapt(Adapt::to_gallery(gallery).neighbours(10).iterations(20))
        .steps(20)
        .samples(4)
        .output(x);
    let plan = engine.plan(&request)?;
    println!("{plan}");
    let mut restored = engine.run(&plan, &|event| {
        eprintln!("{event}");
        ControlFlow::Continue(())
    })?;
    restored.save(&engine)?;
    println!("agrees with the observation to {}", restored.record.agreement_psnr);
    Ok(())
}
