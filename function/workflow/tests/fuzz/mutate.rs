//! Inputs that nobody would send: entries of a pool, changed where it hurts.

use fastrand::Rng;

/// No mutation makes an input larger.
const LARGEST: usize = 1 << 18;

/// Values that JSON readers and their callers stumble over.
const TOKENS: &[&str] = &[
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "0",
    "-0",
    "1.0",
    "-1",
    "1e400",
    "-1e-400",
    "NaN",
    "-Infinity",
    "2147483648",
    "-9223372036854775809",
    "18446744073709551616",
    "1E+2",
    "0.1e0",
    "01",
    "\"1\"",
    "\"1.5\"",
    "\"600s\"",
    "\"-0.000000001s\"",
    "\"999999999999s\"",
    "\"2026-02-30T25:61:61Z\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\u0000\"",
    "\"\\",
    "\"gs://\"",
    "\"gs:///x\"",
    "\"gs://b/\\u2028\"",
    "[null]",
    "[[]]",
    "{\"\":{}}",
    "{\"a\":1,\"a\":2}",
    "{\"@type\":\"x\"}",
    "\"QQ\"",
    "\"QQ==\"",
    "\"!\"",
    "\"RUNNING\"",
    "3",
    "\"run\"",
    "\"cancel\"",
    "\"status\"",
    "\"validate\"",
    "\"00000000-0000-0000-0000-000000000000\"",
];

/// Text that is no text, or not the one that it looks like.
const UNICODE: &[&[u8]] = &[
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    "e\u{301}".as_bytes(),
    "\u{1f469}\u{200d}\u{1f469}".as_bytes(),
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\0",
    "\u{130}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\\u0000",
    b"\\ud83d",
    b"\x1b[31m",
    b"\r\n",
    b"%00",
    b"%f",
    b"%C3%A9",
];

const DEPTHS: [usize; 8] = [1, 2, 32, 127, 128, 129, 1_000, 20_000];

/// A new input out of the pool, which is not empty.
pub fn input(pool: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = pool[random.usize(..pool.len())].clone();
    for _ in 0..random.usize(1..=4) {
        let other = &pool[random.usize(..pool.len())];
        change(&mut input, other, random);
        input.truncate(LARGEST);
    }
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    match random.u8(..14) {
        0 if !input.is_empty() => {
            let at = random.usize(..input.len());
            input[at] ^= 1 << random.u8(..8);
        }
        1 if !input.is_empty() => {
            let at = random.usize(..input.len());
            input[at] = pick(b"\"\\{}[],:-.0e\0\xff ", random);
        }
        2 => input.truncate(random.usize(..=input.len())),
        3 => {
            let (at, length) = (random.usize(..=input.len()), random.usize(..16));
            input.splice(at..at, std::iter::repeat_with(|| random.u8(..)).take(length).collect::<Vec<_>>());
        }
        4 => {
            let range = range(input.len(), random);
            input.drain(range);
        }
        5 => {
            // Once more, or very often.
            let range = range(input.len(), random);
            let times = pick(&[1, 1, 1, 2, 40, 2_000], random);
            let piece = input[range.clone()].repeat(times);
            input.splice(range.end..range.end, piece.into_iter().take(LARGEST));
        }
        6 => {
            let (end, begin) = (random.usize(..=input.len()), random.usize(..=other.len()));
            input.truncate(end);
            input.extend_from_slice(&other[begin..]);
        }
        7 => {
            let (at, piece) = (random.usize(..=input.len()), pick(UNICODE, random));
            input.splice(at..at, piece.iter().copied());
        }
        8 | 9 => {
            let token = pick(TOKENS, random).as_bytes();
            replace_value(input, token, random);
        }
        10 => {
            let values = values(other);
            if let Some(range) = random.choice(&values) {
                replace_value(input, &other[range.clone()], random);
            }
        }
        11 => {
            let depth = pick(&DEPTHS, random);
            let values = values(input);
            let (open, close) = pick(&[("[", "]"), ("{\"a\":", "}"), ("{\"jobs\":[", "]}")], random);
            if let Some(range) = random.choice(&values).cloned() {
                let inner = input[range.clone()].to_vec();
                let wrapped = [open.repeat(depth).as_bytes(), &inner, close.repeat(depth).as_bytes()].concat();
                input.splice(range, wrapped);
            }
        }
        12 => {
            let digits = "9".repeat(pick(&[20, 310, 5_000], random));
            let number = match random.u8(..3) {
                0 => digits,
                1 => format!("0.{digits}"),
                _ => format!("1e{digits}"),
            };
            replace_value(input, number.as_bytes(), random);
        }
        _ => repeat_member(input, random),
    }
}

/// One of the choices, of which there is at least one.
fn pick<T: Copy>(choices: &[T], random: &mut Rng) -> T {
    choices[random.usize(..choices.len())]
}

fn range(length: usize, random: &mut Rng) -> std::ops::Range<usize> {
    let begin = random.usize(..=length);
    begin..random.usize(begin..=length.min(begin + 400))
}

fn replace_value(input: &mut Vec<u8>, with: &[u8], random: &mut Rng) {
    let values = values(input);
    match random.choice(&values).cloned() {
        Some(range) => drop(input.splice(range, with.iter().copied())),
        None => input.extend_from_slice(with),
    }
}

/// A key that stands twice in its object.
fn repeat_member(input: &mut Vec<u8>, random: &mut Rng) {
    let members: Vec<_> = values(input)
        .windows(2)
        .filter(|pair| input[pair[0].end..pair[1].start].trim_ascii() == b":")
        .map(|pair| pair[0].start..pair[1].end)
        .collect();
    if let Some(member) = random.choice(&members).cloned() {
        let times = pick(&[1, 1, 1, 1_000], random);
        let again = [b",", &input[member.clone()]].concat().repeat(times);
        input.splice(member.end..member.end, again.into_iter().take(LARGEST));
    }
}

/// Where strings, words and numbers of JSON stand in it, whether it is JSON or not.
fn values(input: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut values = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let begin = at;
        match input[at] {
            b'"' => {
                at += 1;
                while at < input.len() && input[at] != b'"' {
                    at += 1 + usize::from(input[at] == b'\\');
                }
                at = (at + 1).min(input.len());
                values.push(begin..at);
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'-' => {
                while at < input.len() && (input[at].is_ascii_alphanumeric() || b"+-._".contains(&input[at])) {
                    at += 1;
                }
                values.push(begin..at);
            }
            _ => at += 1,
        }
    }
    values
}
