//! Bus of a machine: the ports of legacy devices and the windows of virtio devices that a vCPU accesses outside memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Serial;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::console::Console;
use crate::layout;
use crate::virtio::mmio::Transport;

/// First port of the first serial port, which has eight registers.
const SERIAL_FIRST: u16 = 0x3f8;
const SERIAL_LAST: u16 = 0x3ff;
/// Command and status port of the keyboard controller.
const KEYBOARD_COMMAND: u16 = 0x64;
/// Command that pulses the reset line: what `reboot=k` sends.
const KEYBOARD_RESET: u8 = 0xfe;
/// Value read from ports without a device: nobody pulls the lines low.
const FLOATING: u8 = 0xff;

/// Interrupt line of the serial port.
#[derive(Debug)]
pub(crate) struct SerialInterrupt(pub(crate) EventFd);

impl vm_superio::Trigger for SerialInterrupt {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Effect of a port write: whether it ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortWrite {
    Done,
    Reset,
}

impl PortWrite {
    pub(crate) fn is_reset(self) -> bool {
        self == Self::Reset
    }
}

/// Devices of one machine, shared by its vCPUs.
#[derive(Debug)]
pub(crate) struct Bus {
    serial: Mutex<Serial<SerialInterrupt, NoEvents, Console>>,
    /// Transports of the devices, each at the window of the same index.
    transports: Vec<Arc<Transport>>,
}

impl Bus {
    pub(crate) fn new(serial_interrupt: SerialInterrupt, transports: Vec<Arc<Transport>>) -> Self {
        Self {
            serial: Mutex::new(Serial::new(serial_interrupt, Console::default())),
            transports,
        }
    }

    /// Calls `look` with the console.
    pub(crate) fn console<T>(&self, look: impl FnOnce(&Console) -> T) -> T {
        look(self.serial().writer())
    }

    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        match port {
            SERIAL_FIRST..=SERIAL_LAST => {
                let mut serial = self.serial();
                data.iter_mut()
                    .for_each(|byte| *byte = serial.read((port - SERIAL_FIRST) as u8));
            }
            // Input buffer empty: ready for the reset command.
            KEYBOARD_COMMAND => data.fill(0),
            _ => data.fill(FLOATING),
        }
    }

    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> PortWrite {
        match port {
            SERIAL_FIRST..=SERIAL_LAST => {
                let mut serial = self.serial();
                for &byte in data {
                    // The interrupt line is an eventfd that cannot overflow; the console accepts everything.
                    let _ = serial.write((port - SERIAL_FIRST) as u8, byte);
                }
                PortWrite::Done
            }
            KEYBOARD_COMMAND if data.first() == Some(&KEYBOARD_RESET) => PortWrite::Reset,
            _ => PortWrite::Done,
        }
    }

    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.window(address) {
            Some((transport, offset)) => transport.read(offset, data),
            None => data.fill(FLOATING),
        }
    }

    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.window(address) {
            transport.write(offset, data);
        }
    }

    /// Finds the transport at `address` and the offset in its window. The windows follow each other without gaps, so
    /// the address itself determines the window.
    fn window(&self, address: u64) -> Option<(&Transport, u64)> {
        let distance = address.checked_sub(layout::MMIO_START)?;
        let index = usize::try_from(distance / layout::MMIO_BYTES).ok()?;
        Some((self.transports.get(index)?, distance % layout::MMIO_BYTES))
    }

    fn serial(&self) -> MutexGuard<'_, Serial<SerialInterrupt, NoEvents, Console>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        Bus::new(
            SerialInterrupt(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd")),
            Vec::new(),
        )
    }

    #[test]
    fn what_is_written_to_the_serial_port_is_on_the_console() {
        let bus = bus();
        for byte in b"hello" {
            assert_eq!(bus.write_port(SERIAL_FIRST, &[*byte]), PortWrite::Done);
        }
        assert_eq!(bus.console(Console::text), "hello");
    }

    #[test]
    fn only_the_reset_command_resets() {
        let bus = bus();
        assert_eq!(bus.write_port(KEYBOARD_COMMAND, &[0xff]), PortWrite::Done);
        assert_eq!(bus.write_port(0x60, &[KEYBOARD_RESET]), PortWrite::Done);
        assert_eq!(bus.write_port(KEYBOARD_COMMAND, &[]), PortWrite::Done);
        assert_eq!(bus.write_port(KEYBOARD_COMMAND, &[KEYBOARD_RESET]), PortWrite::Reset);
    }

    #[test]
    fn nothing_answers_elsewhere() {
        let bus = bus();
        let mut data = [0; 4];
        bus.read_port(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
        for address in [0, layout::MMIO_START - 1, layout::MMIO_START, u64::MAX] {
            let mut data = [0; 8];
            bus.read_memory(address, &mut data);
            assert_eq!(data, [0xff; 8]);
            bus.write_memory(address, &data);
        }
    }
}
