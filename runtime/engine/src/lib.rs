//! Neural networks: ONNX bytes in, a [`Model`] that runs out. The only place that names tract.
//!
//! `load` reads a file, `lower` turns what is quantized into steps over
//! bytes, `program` gives them their memory, `run` runs them with the `kernels` of the processor. A network
//! that is one region of steps from its input to its outputs runs as that; where nodes are left over, the
//! regions are ops (`region`) of a plan of tract's (`float`), which runs the others in float.

mod check;
#[cfg_attr(not(feature = "float"), path = "no_float.rs")]
mod float;
mod kernels;
mod load;
mod lower;
mod memory;
mod model;
mod numbers;
mod onnx;
mod pb;
mod pieces;
mod program;
#[cfg(feature = "float")]
mod region;
mod run;
mod split;
mod steps;
mod team;

use std::sync::Arc;

use prost::bytes::Buf;
use serde::{Deserialize, Serialize};

use self::kernels::Kernels;
pub use self::model::{Model, Normalisation, Op, Picture, Traced};
pub use self::numbers::sigmoid;
pub use self::pieces::Pieces;
pub use self::split::{Head, Slope};
use self::team::Team;

/// Why a network could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The bytes are no network that this engine runs.
    #[error("network {network}: {step}: {cause}")]
    Load {
        /// The network's name.
        network: String,
        /// What was being done.
        step: &'static str,
        /// The loader's reason.
        cause: String,
    },
    /// A tensor has the wrong shape.
    #[error("network {network}: {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The network's name.
        network: String,
        /// The tensor's name.
        tensor: String,
        /// The shape that was asked for.
        expected: Vec<usize>,
        /// The shape that is there.
        found: Vec<usize>,
    },
    /// There are no such kernels.
    #[error("engine kernels: expected one of {expected}, found {found}")]
    Kernels {
        /// Those of this processor.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// Running failed.
    #[error("network {network}: run: {cause}")]
    Run {
        /// The network's name.
        network: String,
        /// The reason.
        cause: String,
    },
}

/// The kernels and the threads that networks run with; clones share the threads.
#[derive(Clone)]
pub struct Engine {
    kernels: &'static dyn Kernels,
    team: Option<Arc<Team>>,
}

impl Default for Engine {
    /// The best kernels of this processor on the caller's thread.
    fn default() -> Self {
        Engine { kernels: kernels::available()[0], team: None }
    }
}

/// Which kernels to compute with; results don't depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSet {
    /// The best of this processor.
    #[default]
    Auto,
    /// Plain code: the specification, slow.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 VNNI.
    Avx512Vnni,
    /// Every AArch64.
    Neon,
    /// AArch64 with dot products.
    NeonDotprod,
    /// AArch64 with matrix products of bytes.
    NeonI8mm,
}

impl KernelSet {
    /// The name in configuration and log.
    pub fn name(self) -> &'static str {
        match self {
            KernelSet::Auto => "auto",
            KernelSet::Scalar => "scalar",
            KernelSet::Avx2 => "avx2",
            KernelSet::Avx512Vnni => "avx512-vnni",
            KernelSet::Neon => "neon",
            KernelSet::NeonDotprod => "neon-dotprod",
            KernelSet::NeonI8mm => "neon-i8mm",
        }
    }
}

impl std::str::FromStr for KernelSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [
            KernelSet::Auto,
            KernelSet::Scalar,
            KernelSet::Avx2,
            KernelSet::Avx512Vnni,
            KernelSet::Neon,
            KernelSet::NeonDotprod,
            KernelSet::NeonI8mm,
        ];
        all.into_iter().find(|set| set.name() == name).ok_or_else(|| {
            let names = all.map(KernelSet::name).join(", ");
            format!("expected one of {names}, found {name}")
        })
    }
}

/// How networks are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Threads; 0 for as many as the processor has cores.
    pub threads: u8,
    /// Which kernels.
    pub kernels: KernelSet,
}

impl Settings {
    /// Most threads.
    pub const MOST_THREADS: u8 = team::MAX_MEMBERS;
}

impl Engine {
    /// An engine with these settings.
    ///
    /// # Errors
    /// [`EngineError::Kernels`] when this processor can't run the kernels.
    pub fn new(settings: &Settings) -> Result<Self, EngineError> {
        let available = kernels::available();
        let wanted = settings.kernels;
        let is_wanted = |k: &&dyn Kernels| wanted == KernelSet::Auto || k.name() == wanted.name();
        let kernels =
            available.iter().copied().find(|k| is_wanted(k)).ok_or_else(|| EngineError::Kernels {
                expected: Self::kernels_available().join(", "),
                found: wanted.name().to_owned(),
            })?;
        let n_threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => usize::from(n),
        };
        let team = (n_threads > 1).then(|| Arc::new(Team::new(n_threads)));
        let engine = Engine { kernels, team };
        log::info!("engine: {} kernels, {} threads", kernels.name(), engine.n_threads());
        Ok(engine)
    }

    /// The names of the kernels that this processor can run, the best first.
    pub fn kernels_available() -> Vec<&'static str> {
        kernels::available().iter().map(|k| k.name()).collect()
    }

    /// The name of the kernels in use.
    pub fn kernels(&self) -> &'static str {
        self.kernels.name()
    }

    /// How many threads work.
    pub fn n_threads(&self) -> usize {
        self.team.as_ref().map_or(1, |team| team.n_members())
    }

    /// Loads ONNX bytes, a slice or [`Pieces`], for the input shape that the file declares, one picture at
    /// a time.
    ///
    /// # Errors
    /// [`EngineError::Load`] as [`Engine::load`], or when the file leaves the shape open.
    pub fn load_as_declared(&self, name: &str, onnx: impl Buf) -> Result<Model, EngineError> {
        load::load(self, name, onnx, None)
    }

    /// Loads ONNX bytes, a slice or [`Pieces`], for one input of `input_shape`, f32, the first axis counting
    /// pictures.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the bytes are no network that the engine runs at that shape.
    pub fn load(&self, name: &str, onnx: impl Buf, input_shape: &[usize]) -> Result<Model, EngineError> {
        load::load(self, name, onnx, Some(input_shape))
    }
}
