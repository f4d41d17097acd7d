//! Reproducible chance.

/// Generator of numbers that look random and are the same each time (xorshift).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Returns one of `sides` numbers from 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}
