//! The corpus of the fuzzers (`tests/fuzz/corpus`) and seeded mutations of it, through every decoder: nothing panics, nothing
//! takes long or much memory, and what was understood can be written and read again. Runs on the stable compiler.
//!
//! A failure prints decoder, seed and case; `HOLDFAST_CORPUS_SEED` plays another seed, `HOLDFAST_CORPUS_CASES` more cases.

#![allow(clippy::unwrap_used)] // Helpers of tests are not seen as tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use holdfast_lab::decoders::{ALL, Decoder};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};

/// Mutations of each decoder.
const CASES: u64 = 2_000;
/// No input of a few kilobytes takes a decoder more than microseconds of a processor; without optimisation it is slower.
const SMALL_MAX: Duration = Duration::from_millis(500);
/// The largest inputs, in a build without optimisation.
const LARGE_MAX: Duration = Duration::from_secs(5);
/// What all of it may take beyond what the process has at its start.
const MEMORY_BYTES: u64 = 768 * 1024 * 1024;

fn corpus(decoder: &Decoder) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(decoder.name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", folder.display());
    found
}

/// Runs a decoder; what it takes is bounded.
fn run(decoder: &Decoder, input: &[u8], within: Duration, case: &dyn std::fmt::Display) -> bool {
    let begin = processor_time();
    let understood = std::panic::catch_unwind(|| (decoder.run)(input))
        .unwrap_or_else(|_| panic!("{}: {case} panics; input: {}", decoder.name, short(input)));
    let took = processor_time().saturating_sub(begin);
    assert!(took < within, "{}: {case} took {took:?}; input: {}", decoder.name, short(input));
    understood
}

/// What this thread has had of a processor: a busy machine makes no decoder slow.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn short(input: &[u8]) -> String {
    let hex: String = input.iter().take(4_096).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes: {hex}", input.len())
}

/// The address space is bounded once for the process: an allocation beyond it aborts the test.
fn bound_memory() {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, pages * 4_096 + MEMORY_BYTES, hard).unwrap();
}

#[test]
fn the_corpus_and_its_mutations_end_in_an_answer() {
    bound_memory();
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, cases) = (number("HOLDFAST_CORPUS_SEED", 20_261_127), number("HOLDFAST_CORPUS_CASES", CASES));
    let begin = Instant::now();
    for decoder in ALL {
        let corpus = corpus(decoder);
        let mut understood = 0;
        for (path, input) in &corpus {
            let known = run(decoder, input, SMALL_MAX, &path.display());
            understood += usize::from(known);
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(!name.starts_with("good-") || known, "{} is refused", path.display());
            assert!(!name.starts_with("bad-") || !known, "{} is understood", path.display());
            for length in 0..input.len().min(2_048) {
                run(decoder, &input[..length], SMALL_MAX, &format!("{} cut to {length}", path.display()));
            }
        }
        assert!(understood > 0, "{}: no file of the corpus is understood", decoder.name);
        for case in 0..cases {
            let mut random = Rng::with_seed(seed ^ (case << 20));
            let input = mutated(&corpus, &mut random);
            run(decoder, &input, SMALL_MAX, &format!("case {case} of seed {seed}"));
        }
        large(decoder, &corpus);
    }
    println!("{} decoders, seed {seed}, {cases} mutations each, {:?}", ALL.len(), begin.elapsed());
}

/// Hostile sizes: the largest input that a decoder's caller lets through, of one byte, of a repeated seed, and nested.
fn large(decoder: &Decoder, corpus: &[(PathBuf, Vec<u8>)]) {
    for unit in
        [&b"["[..], b"{\"a\":", b"(", b"\"", b"a,", b"[[a]]\n", b"- ", b"\x0a\x02", b"\0", b"\xff", b"9"]
    {
        let input: Vec<u8> = unit.iter().copied().cycle().take(decoder.bytes_max).collect();
        run(decoder, &input, LARGE_MAX, &format!("{unit:?} over and over"));
    }
    let (path, seed) = corpus.iter().max_by_key(|(_, input)| input.len()).unwrap();
    let input: Vec<u8> = seed.iter().copied().cycle().take(decoder.bytes_max).collect();
    run(decoder, &input, LARGE_MAX, &format!("{} over and over", path.display()));
}

const NUMBERS: [&[u8]; 12] = [
    b"0",
    b"-1",
    b"255",
    b"65536",
    b"2147483648",
    b"4294967296",
    b"9007199254740993",
    b"9223372036854775807",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e400",
    b"-0.0",
];

fn mutated(corpus: &[(PathBuf, Vec<u8>)], random: &mut Rng) -> Vec<u8> {
    let pick = |random: &mut Rng| corpus[random.usize(..corpus.len())].1.clone();
    let mut input = pick(random);
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..=input.len());
        match random.u8(..9) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            1 if at < input.len() => input[at] = [0, 0xff, b'"', b'{', b'\\', b'\n'][random.usize(..6)],
            2 => input.truncate(at),
            3 => {
                drop(input.splice(
                    at..at,
                    std::iter::repeat_with(|| random.u8(..)).take(at % 9).collect::<Vec<_>>(),
                ))
            }
            // A piece again, or gone.
            4 => {
                let end = random.usize(at..=input.len());
                let piece = input[at..end].to_vec();
                drop(input.splice(at..at, piece));
            }
            5 => {
                let end = random.usize(at..=input.len().min(at + 64));
                drop(input.drain(at..end));
            }
            // A number in the place of a number.
            6 => {
                let digit = |byte: &u8| byte.is_ascii_digit();
                if let Some(begin) = input[at..].iter().position(digit).map(|found| at + found) {
                    let length = input[begin..].iter().take_while(|byte| digit(byte)).count();
                    drop(
                        input.splice(begin..begin + length, NUMBERS[random.usize(..NUMBERS.len())].to_vec()),
                    );
                }
            }
            7 => {
                let (open, close) = [(b'[', b']'), (b'{', b'}'), (b'(', b')')][random.usize(..3)];
                let depth = random.usize(1..400);
                let mut nested = vec![open; depth];
                nested.extend(vec![close; depth]);
                drop(input.splice(at..at, nested));
            }
            // The head of one and the tail of another.
            _ => {
                let other = pick(random);
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }
    input
}
