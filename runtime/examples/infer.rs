//! Runs a network some times on a picture of noise, for counting instructions: infer ONNX SIDE RUNS [KERNELS].

use std::error::Error;

use candor::engine::{Engine, KernelSet, Settings};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [onnx, side_px, n_runs, kernels @ ..] = arguments.as_slice() else {
        return Err("expected ONNX SIDE RUNS [KERNELS]".into());
    };
    let (side_px, n_runs): (usize, usize) = (side_px.parse()?, n_runs.parse()?);
    let kernels: KernelSet = kernels.first().map_or("auto", String::as_str).parse()?;
    let engine = Engine::new(&Settings { threads: 1, kernels })?;
    let mut model = engine.load(onnx, &std::fs::read(onnx)?, &[1, 3, side_px, side_px])?;
    let input: Vec<f32> = (0..3 * side_px * side_px).map(|i| (i * 37 % 255) as f32 / 128.0 - 1.0).collect();
    for _ in 0..n_runs {
        model.run(&input)?;
    }
    println!("{} {:?}", engine.kernels(), model.run(&input)?);
    Ok(())
}
