//! Times ONNX models in rten: `peer-rten N_THREADS MODEL.onnx...`, then for each line `k` on standard input the mean
//! seconds of `k` inferences on standard output. One inference is one run of every model on seeded noise.

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use rten::{Dimension, Model, RunOptions, ThreadPool};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let n_threads = arguments.next().ok_or("usage: peer-rten N_THREADS MODEL.onnx...")?;
    let models = arguments.map(|path| load(&path)).collect::<Result<Vec<_>, _>>()?;
    let pool = Arc::new(ThreadPool::with_num_threads(n_threads.parse()?));
    for line in io::stdin().lock().lines() {
        let k: u32 = line?.trim().parse()?;
        let start = Instant::now();
        for _ in 0..k {
            for (model, noise) in &models {
                let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
                model.run(
                    vec![(model.input_ids()[0], noise.view().into())],
                    model.output_ids(),
                    Some(options),
                )?;
            }
        }
        println!("{:.9}", start.elapsed().as_secs_f64() / f64::from(k));
        io::stdout().flush()?;
    }
    Ok(())
}

/// A model and seeded noise of its input's shape, which must be fixed and have four axes.
fn load(path: &str) -> Result<(Model, NdTensor<f32, 4>), Box<dyn Error>> {
    let model = Model::load_file(path)?;
    let shape = model.node_info(model.input_ids()[0]).and_then(|input| input.shape()).ok_or("no shape")?;
    let shape = shape.iter().map(|axis| match axis {
        Dimension::Fixed(n) => Ok(*n),
        Dimension::Symbolic(name) => Err(format!("axis {name} isn't fixed")),
    });
    let shape: [usize; 4] = shape.collect::<Result<Vec<_>, _>>()?.try_into().map_err(|_| "not four axes")?;
    let mut state = 1_u32;
    let noise = NdTensor::from_simple_fn(shape, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f32::from((state >> 24) as u8) - 127.0) / 128.0
    });
    Ok((model, noise))
}
