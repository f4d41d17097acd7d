//! Exit codes, as in docker and the shell: the one table of them. A program's own codes are 0 to 255.

/// Failure of Capsid itself: nothing of the container's program ran.
pub(crate) const FAILURE: u8 = 125;
/// Program that exists and cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// Program that does not exist.
pub(crate) const NOT_FOUND: u8 = 127;
/// Program whose machine ended by itself, as after a kernel panic.
pub(crate) const MACHINE_ENDED: u8 = 255;
/// Program that was killed, alone or with its machine.
pub(crate) const KILLED: u8 = of_signal(9);

/// Returns the exit code of a program that a signal ended. A number out of range counts as the last one.
pub(crate) const fn of_signal(number: u32) -> u8 {
    let number = if number > 127 { 127 } else { number as u8 };
    128 + number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_from_128_and_stay_in_range() {
        assert_eq!((KILLED, of_signal(15), of_signal(127)), (137, 143, 255));
        assert_eq!((of_signal(0), of_signal(u32::MAX)), (128, 255));
    }
}
