//! `trainer-bridge export`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use tch::Device;

use crate::files;
use crate::model::checkpoint;

/// Write a trained network as a float ONNX file.
///
/// The file has `input`, f32 [N,3,S,S] of normalised RGB, and `logits`, f32 [N,2]: real, fake. Its metadata say how
/// crops become the input.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A run's folder, whose best weights are taken, or a .safetensors file with model.json beside it.
    #[arg(value_name = "RUN|CHECKPOINT")]
    network: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "model.onnx")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A checkpoint that can't be read, or a file that can't be written; an older file stays whole.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (_variables, network) = checkpoint::load(&args.network, Device::Cpu)?;
    let bytes = super::onnx(&network);
    files::replace(&args.out, &bytes)?;
    let spec = network.spec();
    println!(
        "{}: {} at {} px, opset {}, {} bytes",
        args.out.display(),
        spec.backbone,
        spec.size_px(),
        super::OPSET,
        bytes.len()
    );
    Ok(())
}
