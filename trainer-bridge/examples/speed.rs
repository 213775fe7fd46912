//! Images per second that a network trains and infers, without loading or augmenting any.
//!
//!     OMP_NUM_THREADS=2 cargo run --release -p trainer-bridge --example speed -- --backbone lite0
//!
//! Every way is timed once per round, so that a change of the machine's load meets all of them. Seconds are of the
//! clock, and of the processor where only libtorch's CPU code runs: those hardly depend on what else is running.

use std::time::Instant;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use tch::nn::{OptimizerConfig as _, VarStore, sgd};
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::environment;
use trainer_bridge::model::{Backbone, Network, Spec};

#[derive(Parser)]
struct Args {
    /// The network.
    #[arg(long, default_value = "lite0")]
    backbone: Backbone,
    /// Side of the input; its own by default.
    #[arg(long)]
    size_px: Option<u32>,
    /// Pictures of a batch.
    #[arg(long, default_value_t = 16)]
    batch: i64,
    /// Rounds; the best of each way counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Seconds that the process's threads have computed.
fn processor_s() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// One way of running and its best seconds for a batch so far, of the clock and of the processor.
struct Way<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Tensor + 'a>,
    clock_s: f64,
    processor_s: f64,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, run: impl FnMut() -> Tensor + 'a) -> Self {
        Way { name, run: Box::new(run), clock_s: f64::INFINITY, processor_s: f64::INFINITY }
    }

    fn time(&mut self) {
        let (clock, processor) = (Instant::now(), processor_s());
        // Fetching a number waits for the device.
        let _ = (self.run)().double_value(&[]);
        self.clock_s = self.clock_s.min(clock.elapsed().as_secs_f64());
        self.processor_s = self.processor_s.min(processor_s() - processor);
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    environment::settle();
    let device = match args.device.as_str() {
        "cpu" => Device::Cpu,
        "cuda" if tch::Cuda::is_available() => Device::Cuda(0),
        other => anyhow::bail!("--device: expected cpu, or cuda where there is one, found {other}"),
    };
    let size_px = args.size_px.unwrap_or(args.backbone.native_size_px());
    let spec = Spec::of(args.backbone, size_px)?;
    let side = i64::from(size_px);
    tch::manual_seed(1);
    let variables = VarStore::new(device);
    let network = Network::new(&variables.root(), &spec);
    let mut mixed = Network::new(&variables.root().sub("mixed"), &spec);
    mixed.set_convolution_kind(Some(Kind::BFloat16));
    let folded = network.folded();
    let planes = Tensor::randn([args.batch, 3, side, side], (Kind::Float, device));
    // As `model::input` gives it: a pixel's channels side by side.
    let pixels = planes.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let optimizer = std::cell::RefCell::new(sgd(0.9, 0.0, 0.0, false).build(&variables, 1e-4)?);
    let train = |network: &Network, input: &Tensor| {
        let loss = network.forward_t(input, true).square().mean(Kind::Float);
        optimizer.borrow_mut().backward_step(&loss);
        loss
    };
    let infer =
        |network: &Network, input: &Tensor| no_grad(|| network.forward_t(input, false).sum(Kind::Float));
    let mut ways = [
        Way::new("train, planes", || train(&network, &planes)),
        Way::new("train, pixels", || train(&network, &pixels)),
        Way::new("train, pixels, bf16 convolutions", || train(&mixed, &pixels)),
        Way::new("infer, planes", || infer(&network, &planes)),
        Way::new("infer, pixels", || infer(&network, &pixels)),
        Way::new("infer, pixels, folded", || infer(&folded, &pixels)),
        Way::new("infer, pixels, bf16 convolutions", || infer(&mixed, &pixels)),
    ];
    // The first round is to warm up.
    for round in 0..=args.rounds {
        for way in &mut ways {
            if round == 1 {
                (way.clock_s, way.processor_s) = (f64::INFINITY, f64::INFINITY);
            }
            way.time();
        }
    }
    println!(
        "{} at {size_px} px, batch {}, {device:?}, {} threads",
        spec.backbone,
        args.batch,
        tch::get_num_threads()
    );
    for way in &ways {
        let per_s = |seconds: f64| args.batch as f64 / seconds;
        println!(
            "{:34} {:8.1} images/s {:8.1} images/s of processor",
            way.name,
            per_s(way.clock_s),
            per_s(way.processor_s)
        );
    }
    Ok(())
}
