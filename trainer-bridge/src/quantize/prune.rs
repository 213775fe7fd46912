//! `trainer-bridge prune`: an int8 classifier without the hidden units of its head that hardly matter.
//!
//! Training leaves most units behind a ReLU dead or nearly so. A unit adds (byte - zero point) x scale x weight to a logit;
//! units whose parts of every logit of every crop stay below a limit together are left out, and what stays is as it was.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use candor::engine::{Engine, Model};
use image::{RgbImage, imageops};
use indicatif::ProgressBar;
use prost::Message as _;
use tch::Device;

use super::crops::{read, rows_of};
use super::ranges::floats;
use crate::export::onnx::{self, Attribute, Constant, FLOAT, Graph, INT8, INT32, Node, UINT8};
use crate::files;
use crate::manifest::Split;
use crate::model::{Spec, input};

/// Leave out the hidden units of a quantized classifier's head that hardly matter.
///
/// All training crops of the datasets are run, as they are and mirrored; validation crops tell how well the choice holds.
/// With --most-change 0 the units go that add nothing for any training crop.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An int8 ONNX file, as `quantize` writes it.
    #[arg(value_name = "ONNX")]
    model: PathBuf,
    /// Datasets: folders with a manifest.csv. The more kinds of crops, the better.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// The file to write.
    #[arg(long, value_name = "ONNX")]
    out: PathBuf,
    /// How much any logit of any training crop may change; 0 or more.
    #[arg(long, value_name = "LOGITS", default_value_t = 0.05)]
    most_change: f32,
}

/// Why a file can't be pruned.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    /// The head is another one.
    #[error("expected a head of two quantized dense layers with a ReLU between, as `quantize` writes: {0}")]
    Head(String),
    /// A tensor isn't as its dimensions say.
    #[error("constant {name}: expected {expected}, found {found}")]
    Constant {
        /// Its name.
        name: String,
        /// What was expected.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// The head of an int8 classifier.
#[derive(Debug)]
struct Head {
    /// The tensor of the hidden units' bytes, u8.
    bytes: String,
    /// Their zero point.
    zero: u8,
    /// What one step of a unit's byte adds to each logit: [unit][logit].
    parts: Vec<Vec<f32>>,
    /// Constants with something for each unit: their names, and the axis that counts units.
    constants: Vec<(String, usize)>,
}

impl Head {
    /// Finds the head of `graph`, a network that the engine runs.
    ///
    /// # Errors
    /// [`PruneError`] for a head that isn't made of two dense layers of integers, or shares its constants.
    fn of(graph: &Graph) -> Result<Self, PruneError> {
        let graph = Names::of(graph);
        let last = graph.last_dense().ok_or_else(|| PruneError::Head("no dense layer".to_owned()))?;
        let hidden_real = graph.maker(last, 0, "DequantizeLinear")?;
        let step = graph.maker(hidden_real, 0, "QuantizeLinear")?;
        let hidden = graph.maker(step, 0, "Gemm")?;
        if step.input[1..] != hidden_real.input[1..] {
            return Err(PruneError::Head(format!("{} isn't read as it was written", hidden_real.input[0])));
        }
        for dense in [hidden, last] {
            let transposed = dense.attribute.iter().find(|attribute| attribute.name == "transB");
            if transposed.and_then(Attribute::integers) != Some(vec![1]) {
                return Err(PruneError::Head(format!("{} has no transB = 1", dense.name)));
            }
        }
        let (rows, bias) =
            (graph.maker(hidden, 1, "DequantizeLinear")?, graph.maker(hidden, 2, "DequantizeLinear")?);
        let columns = graph.maker(last, 1, "DequantizeLinear")?;

        let (weights, scales) = (graph.constant(columns, 0)?, graph.constant(columns, 1)?);
        let [n_logits, n_units] = extents(weights)?[..] else {
            return Err(PruneError::Head(format!("{} is no matrix", weights.name)));
        };
        let weight_bytes = checked(weights, INT8, n_logits.checked_mul(n_units))?;
        let scale = checked(graph.constant(step, 1)?, FLOAT, Some(1))?.as_chunks().0[0];
        let zero = checked(graph.constant(step, 2)?, UINT8, Some(1))?[0];
        let scales = checked(scales, FLOAT, Some(n_logits))?.as_chunks().0;
        let part = |unit: usize, logit: usize| {
            let weight = f32::from(weight_bytes[logit * n_units + unit].cast_signed());
            weight * f32::from_le_bytes(scales[logit]) * f32::from_le_bytes(scale)
        };
        let parts = (0..n_units).map(|unit| (0..n_logits).map(|logit| part(unit, logit)).collect()).collect();

        let mut constants = vec![(weights.name.clone(), 1)];
        for parameter in [rows, bias] {
            for at in 0..parameter.input.len() {
                let constant = graph.constant(parameter, at)?;
                let found = extents(constant)?;
                if found.first() != Some(&n_units) {
                    let expected = format!("{n_units} units");
                    return Err(wrong(constant, expected, format!("dimensions {found:?}")));
                }
                constants.push((constant.name.clone(), 0));
            }
        }
        for (name, _) in &constants {
            let n_readers =
                graph.nodes.iter().flat_map(|node| &node.input).filter(|input| *input == name).count();
            if n_readers != 1 {
                return Err(PruneError::Head(format!("{name} is read {n_readers} times")));
            }
        }
        Ok(Head { bytes: hidden_real.input[0].clone(), zero, parts, constants })
    }

    /// The largest part that each unit has in any logit of any of `looks`, a unit's byte each.
    fn largest(&self, looks: &[&[u8]]) -> Vec<f32> {
        let mut most = vec![0u8; self.parts.len()];
        for look in looks {
            most.iter_mut().zip(*look).for_each(|(most, byte)| *most = byte.abs_diff(self.zero).max(*most));
        }
        let largest = |parts: &Vec<f32>| parts.iter().fold(0.0f32, |most, part| part.abs().max(most));
        self.parts.iter().zip(most).map(|(parts, steps)| largest(parts) * f32::from(steps)).collect()
    }

    /// For each unit whether it stays. They go in the order of their largest parts, until what goes would be more than
    /// `limit` together, without regard to sign, in any logit of any of `looks`.
    fn choose(&self, looks: &[&[u8]], limit: f32) -> Vec<bool> {
        let largest = self.largest(looks);
        let mut order: Vec<usize> = (0..self.parts.len()).collect();
        order.sort_by(|&a, &b| largest[a].total_cmp(&largest[b]));
        let mut stays = vec![true; self.parts.len()];
        let mut gone: Vec<Vec<f32>> = looks.iter().map(|_| vec![0.0; self.parts[0].len()]).collect();
        for unit in order {
            for (gone, look) in gone.iter_mut().zip(looks) {
                let steps = f32::from(look[unit].abs_diff(self.zero));
                gone.iter_mut().zip(&self.parts[unit]).for_each(|(gone, part)| *gone += steps * part.abs());
            }
            if gone.iter().flatten().any(|gone| *gone > limit) {
                break;
            }
            stays[unit] = false;
        }
        stays
    }

    /// How much any logit of any of `looks` changes without the units that don't stay.
    fn change(&self, looks: &[&[u8]], stays: &[bool]) -> f32 {
        let mut most = 0.0f32;
        for look in looks {
            for logit in 0..self.parts[0].len() {
                let gone = look.iter().zip(&self.parts).zip(stays).filter(|(_, stays)| !**stays);
                let steps = |byte: u8| f32::from(byte) - f32::from(self.zero);
                let change: f32 = gone.map(|((byte, parts), _)| steps(*byte) * parts[logit]).sum();
                most = change.abs().max(most);
            }
        }
        most
    }

    /// Leaves in `graph` the units that stay, at least one.
    ///
    /// # Errors
    /// [`PruneError::Constant`]; the graph is then in part as it was.
    fn keep(&self, graph: &mut Graph, stays: &[bool]) -> Result<(), PruneError> {
        for (name, axis) in &self.constants {
            if let Some(constant) = graph.initializer.iter_mut().find(|constant| constant.name == *name) {
                select(constant, *axis, stays)?;
            }
        }
        Ok(())
    }
}

/// A graph by its names.
struct Names<'a> {
    nodes: &'a [Node],
    makers: HashMap<&'a str, &'a Node>,
    constants: HashMap<&'a str, &'a Constant>,
}

impl<'a> Names<'a> {
    fn of(graph: &'a Graph) -> Self {
        let makers =
            graph.node.iter().flat_map(|node| node.output.iter().map(move |made| (made.as_str(), node)));
        let constants = graph.initializer.iter().map(|constant| (constant.name.as_str(), constant));
        Names { nodes: &graph.node, makers: makers.collect(), constants: constants.collect() }
    }

    fn last_dense(&self) -> Option<&'a Node> {
        self.nodes.iter().rfind(|node| node.op_type == "Gemm")
    }

    /// The node of `op_type` that makes an input of `node`.
    fn maker(&self, node: &Node, at: usize, op_type: &str) -> Result<&'a Node, PruneError> {
        let name = node.input.get(at).map_or("", String::as_str);
        let maker = self.makers.get(name).copied().filter(|maker| maker.op_type == op_type);
        maker.ok_or_else(|| PruneError::Head(format!("`{name}` isn't made by {op_type}")))
    }

    /// The constant that is an input of `node`.
    fn constant(&self, node: &Node, at: usize) -> Result<&'a Constant, PruneError> {
        let name = node.input.get(at).map_or("", String::as_str);
        self.constants.get(name).copied().ok_or_else(|| PruneError::Head(format!("`{name}` is no constant")))
    }
}

fn wrong(constant: &Constant, expected: String, found: String) -> PruneError {
    PruneError::Constant { name: constant.name.clone(), expected, found }
}

/// A tensor's dimensions, none of them 0.
fn extents(constant: &Constant) -> Result<Vec<usize>, PruneError> {
    let extents =
        constant.dims.iter().map(|&extent| usize::try_from(extent).ok().filter(|&extent| extent > 0));
    let found = || format!("{:?}", constant.dims);
    extents.collect::<Option<_>>().ok_or_else(|| wrong(constant, "dimensions above 0".to_owned(), found()))
}

/// A tensor's bytes, which are `n` numbers of the type `data_type`; `None` is more than there can be.
fn checked(constant: &Constant, data_type: i32, n: Option<usize>) -> Result<&[u8], PruneError> {
    let number_bytes = if matches!(data_type, FLOAT | INT32) { 4 } else { 1 };
    let n_bytes = n.and_then(|n| n.checked_mul(number_bytes));
    if constant.data_type != data_type || Some(constant.raw_data.len()) != n_bytes {
        let found = format!("{} bytes of type {}", constant.raw_data.len(), constant.data_type);
        let n = n.map_or("too many".to_owned(), |n| n.to_string());
        return Err(wrong(constant, format!("{n} numbers of type {data_type}"), found));
    }
    Ok(&constant.raw_data)
}

/// Leaves those of a tensor's slices along `axis` for which `stays` says so.
fn select(constant: &mut Constant, axis: usize, stays: &[bool]) -> Result<(), PruneError> {
    let extents = extents(constant)?;
    let n = extents.iter().try_fold(1, |n: usize, &extent| n.checked_mul(extent));
    let bytes = checked(constant, constant.data_type, n)?;
    let n_slices: usize = extents[..=axis].iter().product();
    let slices = bytes.chunks_exact(bytes.len() / n_slices).zip(stays.iter().cycle());
    constant.raw_data = slices.filter(|(_, stays)| **stays).flat_map(|(slice, _)| slice).copied().collect();
    constant.dims[axis] = stays.iter().map(|stays| i64::from(*stays)).sum();
    Ok(())
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read or written, and a network whose head isn't as `quantize` writes it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.most_change >= 0.0, "--most-change: expected 0 or more, found {}", args.most_change);
    let name = args.model.display().to_string();
    let bytes = fs::read(&args.model).with_context(|| name.clone())?;
    let mut file = onnx::Model::decode(&bytes[..]).with_context(|| name.clone())?;
    ensure!(file.encode_to_vec() == bytes, "{name}: expected a file of `quantize`, found more in it");
    let spec_text = file.metadata_props.iter().position(|property| property.key == "spec");
    let spec_text =
        spec_text.with_context(|| format!("{name}: expected `spec` in the metadata, found none"))?;
    let json = &file.metadata_props[spec_text].value;
    let spec: Spec = serde_json::from_str(json).with_context(|| format!("{name}: spec"))?;
    let side = spec.size_px() as usize;
    let load = |name: &str, bytes: &[u8]| Engine::default().load(name, bytes, &[1, 3, side, side]);
    let model = load(&name, &bytes)?;
    let graph = file.graph.as_mut().with_context(|| format!("{name}: expected a graph, found none"))?;
    let head = Head::of(graph).with_context(|| name.clone())?;
    let rows = rows_of(&args.data)?;
    let paths = |split: Split| -> Vec<PathBuf> {
        rows.iter().filter(|row| row.split == split).map(|row| PathBuf::from(&row.crop)).collect()
    };
    let (training, checks) = (paths(Split::Train), paths(Split::Validation));
    ensure!(!training.is_empty(), "--data: expected crops of the split train, found none");

    let chosen = looks(&model, &head, &spec, &training)?;
    let chosen: Vec<&[u8]> = chosen.iter().flatten().map(Vec::as_slice).collect();
    let stays = head.choose(&chosen, args.most_change);
    let n_kept = stays.iter().filter(|stays| **stays).count();
    ensure!(n_kept > 0, "{name}: no hidden unit matters to these crops");
    println!("{n_kept} of {} hidden units stay", stays.len());
    let seen = looks(&model, &head, &spec, &checks)?;
    let seen: Vec<&[u8]> = seen.iter().flatten().map(Vec::as_slice).collect();
    for (what, n, looks) in [("training", training.len(), &chosen), ("validation", checks.len(), &seen)] {
        println!("logits of {n} {what} crops change by at most {:.4}", head.change(looks, &stays));
    }

    head.keep(graph, &stays).with_context(|| name.clone())?;
    let narrow = Spec { hidden: u32::try_from(n_kept)?, ..spec.clone() };
    file.metadata_props[spec_text].value = serde_json::to_string(&narrow)?;
    let pruned = file.encode_to_vec();
    // What was foretold is what the file gives, but for the rounding of a few sums.
    let crop = values(&read(&training[0], spec.size_px())?, &spec);
    let [before, after] = [(&name[..], &bytes), ("pruned", &pruned)]
        .map(|(name, bytes)| load(name, bytes).and_then(|mut model| Ok(model.run(&crop)?[0].clone())));
    let (before, after) = (before?, after?);
    let change = before.iter().zip(&after).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
    ensure!(change <= args.most_change + 1e-4, "{name}: the first crop's logits changed by {change}");
    files::replace(&args.out, &pruned)?;
    println!("{}: {} bytes, {} before", args.out.display(), pruned.len(), bytes.len());
    Ok(())
}

/// The bytes of the hidden units for each of the crops in `paths`, as it is and mirrored.
fn looks(model: &Model, head: &Head, spec: &Spec, paths: &[PathBuf]) -> anyhow::Result<Vec<[Vec<u8>; 2]>> {
    let found = Mutex::new(vec![[const { Vec::new() }; 2]; paths.len()]);
    let (next, bar) = (AtomicUsize::new(0), ProgressBar::new(paths.len() as u64));
    let one_by_one = || -> anyhow::Result<()> {
        let mut model = model.clone();
        let mut units = |picture: &RgbImage| -> anyhow::Result<Vec<u8>> {
            let traced = model.trace(&values(picture, spec))?;
            let units = traced.into_iter().find(|traced| traced.tensor == head.bytes);
            Ok(units.with_context(|| format!("{}: not computed in bytes", head.bytes))?.bytes)
        };
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(at) else { return Ok(()) };
            let crop = read(path, spec.size_px())?;
            let both = [units(&crop)?, units(&imageops::flip_horizontal(&crop))?];
            found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = both;
            bar.inc(1);
        }
    };
    // After an error nobody needs the rest.
    let work = || one_by_one().inspect_err(|_| next.store(paths.len(), Ordering::Relaxed));
    let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().try_for_each(ended)
    })?;
    bar.finish_and_clear();
    Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// A crop as the network's input [3,S,S].
fn values(crop: &RgbImage, spec: &Spec) -> Vec<f32> {
    floats(&input(&[crop], spec, Device::Cpu).contiguous())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// Two logits of three units; the second unit adds most, the third next to nothing.
    fn head() -> Head {
        let parts = vec![vec![0.5, -0.5], vec![1.0, 2.0], vec![0.01, 0.02]];
        Head { bytes: String::new(), zero: 3, parts, constants: Vec::new() }
    }

    #[test]
    fn units_go_while_all_that_goes_stays_below_the_limit() {
        let looks: [&[u8]; 2] = [&[3, 4, 13], &[5, 3, 3]];
        let choose = |limit: f32| head().choose(&looks, limit);
        // Parts of the logits: .1 and .2 of the third unit, 1 of the first, 1 and 2 of the second.
        assert_eq!(choose(0.0), [true; 3]);
        assert_eq!(choose(0.19), [true; 3]);
        assert_eq!(choose(0.21), [true, true, false]);
        assert_eq!(choose(0.99), [true, true, false]);
        assert_eq!(choose(1.01), [false, true, false]);
        assert_eq!(choose(2.3), [false; 3]);
        assert!((head().change(&looks, &[true, true, false]) - 0.2).abs() < 1e-6);
        assert!((head().change(&looks, &[false, false, true]) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn units_that_no_crop_reaches_go_for_nothing() {
        assert_eq!(head().choose(&[&[3, 4, 3], &[5, 3, 3]], 0.0), [true, true, false]);
    }

    #[test]
    fn slices_are_left_out_along_an_axis() {
        let constant = |dims: &[i64], data_type: i32, raw_data: &[u8]| Constant {
            dims: dims.to_vec(),
            data_type,
            name: "c".into(),
            raw_data: raw_data.to_vec(),
        };
        let stays = [true, false, true];
        let mut columns = constant(&[2, 3], INT8, &[1, 2, 3, 4, 5, 6]);
        select(&mut columns, 1, &stays).unwrap();
        assert_eq!(columns, constant(&[2, 2], INT8, &[1, 3, 4, 6]));
        let mut rows = constant(&[3, 2], INT8, &[1, 2, 3, 4, 5, 6]);
        select(&mut rows, 0, &stays).unwrap();
        assert_eq!(rows, constant(&[2, 2], INT8, &[1, 2, 5, 6]));
        let mut words = constant(&[3], INT32, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        select(&mut words, 0, &stays).unwrap();
        assert_eq!(words, constant(&[2], INT32, &[1, 0, 0, 0, 3, 0, 0, 0]));
        for dims in [&[3, 3][..], &[4, 1 << 62], &[0], &[-1]] {
            let refused = select(&mut constant(dims, INT8, &[1, 2]), 0, &stays).unwrap_err();
            assert!(refused.to_string().starts_with("constant c: expected "), "{refused}");
        }
    }
}
