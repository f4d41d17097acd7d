//! Checks of `--user` and `--group-add` that are possible without the image's account files, which only the guest
//! reads.

/// Highest user or group number: docker's.
const ID_MAX: u32 = i32::MAX as u32;

/// Reason why a user or group is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("invalid user {0:?}: write USER[:GROUP], names or numbers")]
    Form(String),
    #[error("invalid group {0:?}: write a name or a number")]
    Group(String),
    #[error("invalid user or group {0}: uids and gids must be in range 0-{ID_MAX}")]
    Range(String),
}

/// Checks `user[:group]`.
pub(crate) fn check(user: &str) -> Result<(), UserError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    if !is_word(name) || !is_word(group) {
        return Err(UserError::Form(user.into()));
    }
    check_number(name)?;
    check_number(group)
}

/// Checks a group.
pub(super) fn check_group(group: &str) -> Result<(), UserError> {
    if group.is_empty() || !is_word(group) {
        return Err(UserError::Group(group.into()));
    }
    check_number(group)
}

/// Whether an account file can hold the text as one field.
fn is_word(text: &str) -> bool {
    !text.contains([':', '\n', '\0'])
}

fn check_number(text: &str) -> Result<(), UserError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        _ if !is_number => Ok(()),
        Ok(number) if number <= ID_MAX => Ok(()),
        _ => Err(UserError::Range(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_account_file_can_hold_is_refused() {
        for good in ["", "web", "0", "1000:1000", "web:www", ":www", "2147483647"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for wrong in ["a:b:c", "a\nb", "2147483648", "1:99999999999"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert!(check_group("").is_err() && check_group("a:b").is_err() && check_group("docker").is_ok());
    }
}
