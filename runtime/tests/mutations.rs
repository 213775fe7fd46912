//! Networks whose protobuf has been changed here and there are refused or run, but nothing else happens.
//!
//! `CANDOR_MUTATIONS` and `CANDOR_SEED` choose how many and which. The input at work is left in the target
//! folder, should the process end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use candor::engine::{Engine, KernelSet, Settings};
use candor::fuzzing;

/// Changes that an ordinary test run tries.
const N_MUTATIONS: u64 = 300;

/// A protobuf field; what can be read as a message is one.
#[derive(Clone)]
struct Field {
    tag: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let mut take = |n: usize| -> Option<&[u8]> {
            let (taken, rest) = bytes.split_at_checked(n)?;
            bytes = rest;
            Some(taken)
        };
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed(take(8)?.to_vec()),
            5 => Value::Fixed(take(4)?.to_vec()),
            2 => {
                let n = usize::try_from(varint(&mut bytes)?).ok()?;
                let (taken, rest) = bytes.split_at_checked(n)?;
                bytes = rest;
                match parse(taken, depth + 1).filter(|f| !f.is_empty() && depth < 6) {
                    Some(message) => Value::Message(message),
                    None => Value::Bytes(taken.to_vec()),
                }
            }
            _ => return None,
        };
        if tag >> 3 == 0 || tag >> 3 > 64 {
            return None;
        }
        fields.push(Field { tag, value });
    }
    Some(fields)
}

fn push_varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    bytes.push(n.to_le_bytes()[0]);
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        push_varint(&mut bytes, field.tag);
        let inner;
        let of_length = match &field.value {
            Value::Varint(n) => {
                push_varint(&mut bytes, *n);
                continue;
            }
            Value::Fixed(fixed) => {
                bytes.extend(fixed);
                continue;
            }
            Value::Bytes(inner) => inner,
            Value::Message(fields) => {
                inner = encode(fields);
                &inner
            }
        };
        push_varint(&mut bytes, of_length.len() as u64);
        bytes.extend(of_length);
    }
    bytes
}

/// A list of fields somewhere in the message, the deeper the more there are.
fn list<'a>(fields: &'a mut Vec<Field>, random: &mut Random) -> &'a mut Vec<Field> {
    let inner: Vec<usize> =
        (0..fields.len()).filter(|&at| matches!(fields[at].value, Value::Message(_))).collect();
    if inner.is_empty() || random.below(6) == 0 {
        return fields;
    }
    let at = inner[random.below(inner.len())];
    match &mut fields[at].value {
        Value::Message(message) => list(message, random),
        _ => unreachable!("filtered just now"),
    }
}

/// All byte strings with their fields' tags, and all whole messages.
fn gather(fields: &[Field], found: &mut Vec<Field>) {
    for field in fields {
        found.push(field.clone());
        if let Value::Message(message) = &field.value {
            gather(message, found);
        }
    }
}

fn mutate(fields: &mut Vec<Field>, parts: &[Field], random: &mut Random) {
    const NUMBERS: [u64; 16] =
        [0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 1 << 16, 1 << 31, 1 << 40, 1 << 63, u64::MAX];
    let list = list(fields, random);
    if list.is_empty() {
        return;
    }
    let at = random.below(list.len());
    match random.below(8) {
        0 => drop(list.remove(at)),
        1 => list.push(list[at].clone()),
        2 => {
            let other = random.below(list.len());
            list.swap(at, other);
        }
        // Something of the same kind from elsewhere: another name, operator, tensor or node.
        3 | 4 => {
            let same: Vec<&Field> = parts.iter().filter(|f| f.tag == list[at].tag).collect();
            if !same.is_empty() {
                list[at] = same[random.below(same.len())].clone();
            }
        }
        _ => match &mut list[at].value {
            Value::Varint(n) => {
                *n = if random.below(2) == 0 {
                    NUMBERS[random.below(16)]
                } else {
                    n.wrapping_add(random.next() % 5).wrapping_sub(2)
                };
            }
            Value::Fixed(bytes) | Value::Bytes(bytes) => {
                if bytes.is_empty() {
                    return;
                }
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.push(0),
                    2 => {
                        for (to, from) in bytes[at..].iter_mut().zip(random.next().to_le_bytes()) {
                            *to = from;
                        }
                    }
                    _ => bytes[at] ^= 1 << random.below(8),
                }
            }
            Value::Message(_) => {}
        },
    }
}

/// Whether the best and the plain kernels give the same of a random input; `None` for a network that doesn't
/// run.
fn kernels_agree(bytes: &[u8], random: &mut Random) -> Option<bool> {
    let shape = [1, 3, 8, 8];
    let input: Vec<f32> = (0..192).map(|_| f32::from(random.next().to_le_bytes()[0]) / 32.0 - 4.0).collect();
    let outputs = |kernels: KernelSet| -> Option<Vec<Vec<u32>>> {
        let engine = Engine::new(&Settings { threads: 1, kernels }).ok()?;
        let mut model = engine.load("mutation", bytes, &shape).ok()?;
        let outputs = model.run(&input).ok()?;
        Some(outputs.iter().map(|values| values.iter().map(|v| v.to_bits()).collect()).collect())
    };
    Some(outputs(KernelSet::Auto)? == outputs(KernelSet::Scalar)?)
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap())
}

/// The last panic that was ours. Those of tract are contained; ours are as well, but are mistakes.
static OWN_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps a panic of the engine's own code, which compilers name by a path inside of it.
fn keep_own(panic: &std::panic::PanicHookInfo<'_>) {
    if panic.location().is_some_and(|place| place.file().contains("engine/src")) {
        *OWN_PANIC.lock().unwrap() = Some(panic.to_string());
    }
}

#[test]
fn changed_networks_are_refused_or_run() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/network");
    let mut files: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let trees: Vec<Vec<Field>> = seeds.iter().filter_map(|bytes| parse(bytes, 0)).collect();
    let mut parts = Vec::new();
    trees.iter().for_each(|tree| gather(tree, &mut parts));
    assert!(trees.len() > 10 && parts.len() > 1000);
    assert!(trees.iter().zip(&seeds).all(|(tree, bytes)| encode(tree) == *bytes), "encoding undoes parsing");

    let seed = from_environment("CANDOR_SEED", 20_261_125);
    let n_mutations = from_environment("CANDOR_MUTATIONS", N_MUTATIONS);
    println!("seed {seed}, {n_mutations} mutations");
    std::panic::set_hook(Box::new(keep_own));
    let at_work = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutation-{seed}.onnx"));
    let mut random = Random(seed);
    let (mut n_findings, mut n_taken) = (0, 0);
    for n in 0..n_mutations {
        let mut tree = trees[random.below(trees.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut tree, &parts, &mut random);
        }
        let mut bytes = encode(&tree);
        if random.below(8) == 0 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] = random.next().to_le_bytes()[0];
        }
        fs::write(&at_work, &bytes).unwrap();
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(|| fuzzing::network(&bytes));
        let took = start.elapsed();
        if n % 4 == 0 && outcome.is_ok() {
            match kernels_agree(&bytes, &mut random) {
                Some(true) => n_taken += 1,
                Some(false) => {
                    let kept = at_work.with_file_name(format!("differs-{seed}-{n}.onnx"));
                    fs::write(&kept, &bytes).unwrap();
                    println!("{}: kernels differ", kept.display());
                    n_findings += 1;
                }
                None => {}
            }
        }
        if took.as_secs() >= 5 {
            let kept = at_work.with_file_name(format!("slow-{seed}-{n}.onnx"));
            fs::write(&kept, &bytes).unwrap();
            println!("{}: {took:?}", kept.display());
        }
        let own_panic = OWN_PANIC.lock().unwrap().take();
        if outcome.is_err() || own_panic.is_some() {
            let kept = at_work.with_file_name(format!("panic-{seed}-{n}.onnx"));
            fs::write(&kept, &bytes).unwrap();
            println!("{}: {}", kept.display(), own_panic.unwrap_or_default());
            n_findings += 1;
        }
    }
    drop(std::panic::take_hook());
    assert_eq!(n_findings, 0, "seed {seed}");
    println!("{n_taken} of {} that were tried with two kinds of kernels run", n_mutations.div_ceil(4));
    assert!(n_taken > 0, "seed {seed}: nothing was taken");
}
