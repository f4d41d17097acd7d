//! Generated names for containers without one: an adjective and a virus's shape or part, as docker's are an adjective
//! and a scientist.

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clever", "cosy", "crisp", "deft", "eager", "fair", "fleet", "gentle", "glad",
    "grand", "happy", "keen", "kind", "lively", "lucid", "mellow", "merry", "nimble", "plucky", "proud", "quiet",
    "sharp", "silent", "steady", "sunny", "swift", "vivid", "witty",
];
const NOUNS: [&str; 32] = [
    "adeno",
    "arena",
    "capsid",
    "capsomer",
    "corona",
    "envelope",
    "fibre",
    "filament",
    "genome",
    "helix",
    "herpes",
    "icosahedron",
    "lambda",
    "lentil",
    "matrix",
    "mosaic",
    "nucleoid",
    "papilloma",
    "penton",
    "phage",
    "pox",
    "prion",
    "reo",
    "rhabdo",
    "ribozyme",
    "satellite",
    "shell",
    "spike",
    "tegument",
    "tobacco",
    "vector",
    "virion",
];

/// Returns a name chosen by random bytes; `attempt` over 0 adds more of them, for when the first name was taken.
pub(crate) fn generate(random: &[u8], attempt: u32) -> String {
    let pick = |at: usize, words: &[&'static str; 32]| words[usize::from(random.get(at).copied().unwrap_or(0)) % 32];
    let name = format!("{}_{}", pick(0, &ADJECTIVES), pick(1, &NOUNS));
    match attempt {
        0 => name,
        _ => format!(
            "{name}{}",
            u16::from_le_bytes([random.get(2).copied().unwrap_or(0), random.get(3).copied().unwrap_or(0)])
        ),
    }
}
