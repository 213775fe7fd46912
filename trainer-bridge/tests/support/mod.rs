//! Networks for tests, and ONNX Runtime to compare them with.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model::{Network, Spec};

const SEED: i64 = 11;

/// `path` below the repository's `.cache`; `None`, with a printed reason, where `tests/setup` hasn't put it there.
pub(crate) fn cached(path: &str) -> Option<PathBuf> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache").join(path);
    if cached.exists() {
        return Some(cached);
    }
    let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
    assert!(!is_required, "{} is missing: run tests/run", cached.display());
    println!("skipped: {} is missing, run tests/run", cached.display());
    None
}

/// The folder that a test and `reference/run_onnx.py` share.
pub(crate) struct OnnxRuntime {
    python: PathBuf,
    folder: tempfile::TempDir,
    jobs: Vec<serde_json::Value>,
}

impl OnnxRuntime {
    /// `None`, with a printed reason, without the tests' Python.
    pub(crate) fn new() -> Option<Self> {
        let python = cached("venv/bin/python")?;
        Some(OnnxRuntime { python, folder: tempfile::tempdir().unwrap(), jobs: Vec::new() })
    }

    /// Lets an ONNX file run on `pictures` later.
    pub(crate) fn add_file(&mut self, name: &str, onnx: &[u8], pictures: &Tensor) {
        fs::write(self.folder.path().join(format!("{name}.onnx")), onnx).unwrap();
        self.add(name, serde_json::json!({"name": name, "shape": pictures.size()}), pictures);
    }

    /// Lets the network that `models/efficientnet.py` makes of a checkpoint run on `pictures` later.
    pub(crate) fn add_member(&mut self, name: &str, member: &str, checkpoint: &Path, pictures: &Tensor) {
        let shape = pictures.size();
        let job =
            serde_json::json!({"name": name, "shape": shape, "member": member, "checkpoint": checkpoint});
        self.add(name, job, pictures);
    }

    fn add(&mut self, name: &str, job: serde_json::Value, pictures: &Tensor) {
        let bytes: Vec<u8> = values(pictures).into_iter().flat_map(f32::to_le_bytes).collect();
        fs::write(self.folder.path().join(format!("{name}.input")), bytes).unwrap();
        self.jobs.push(job);
    }

    /// Runs everything that was added.
    pub(crate) fn run(&self) {
        fs::write(self.folder.path().join("jobs.json"), serde_json::to_vec(&self.jobs).unwrap()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/run_onnx.py");
        let status = Command::new(&self.python).arg(script).arg(self.folder.path()).status().unwrap();
        assert!(status.success(), "run_onnx.py: {status}");
    }

    /// The output of a run.
    pub(crate) fn output(&self, name: &str) -> Vec<f32> {
        let bytes = fs::read(self.folder.path().join(format!("{name}.output"))).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// What a file says of itself; see the script.
    pub(crate) fn described(&self, name: &str) -> serde_json::Value {
        let json = fs::read(self.folder.path().join(format!("{name}.json"))).unwrap();
        serde_json::from_slice(&json).unwrap()
    }
}

/// All numbers of a tensor, in the order of its axes.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_kind(Kind::Float).contiguous().reshape([-1]).try_into().unwrap()
}

/// Largest difference; infinite where a number is none or there are more on one side.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) })
}

/// A network whose batch normalisations have seen a batch and have gains and biases of their own.
pub(crate) fn used_network(variables: &VarStore, spec: &Spec) -> Network {
    tch::manual_seed(SEED);
    let network = Network::new(&variables.root(), spec);
    let noise = noise(8, spec);
    let _logits = no_grad(|| {
        for (name, variable) in sorted(variables) {
            if name.ends_with(".norm.weight") {
                let _ = { variable }.uniform_(0.5, 1.5);
            } else if name.ends_with(".norm.bias") {
                let _ = { variable }.uniform_(-0.3, 0.3);
            }
        }
        network.forward_t(&noise, true)
    });
    network
}

/// Pictures of unit normal numbers.
pub(crate) fn noise(n_pictures: i64, spec: &Spec) -> Tensor {
    let side = i64::from(spec.size_px());
    Tensor::randn([n_pictures, 3, side, side], (Kind::Float, Device::Cpu))
}

fn sorted(variables: &VarStore) -> Vec<(String, Tensor)> {
    let mut sorted: Vec<_> = variables.variables().into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted
}
