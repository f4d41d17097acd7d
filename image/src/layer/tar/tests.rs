use std::io::Read;

use super::*;
