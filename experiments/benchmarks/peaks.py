"""Peak speeds of accelerators: dense bfloat16 products, in 10^12 operations/s."""

PEAKS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}


def peak_of(device_kind: str) -> float | None:
    """Returns the peak of a device; None if it is unknown.

    Args:
      device_kind: JAX's name of the device (`jax.Device.device_kind`).

    Examples:
      >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("TPU v5 lite"), peak_of("cpu")
      (989.0, 197.0, None)
    """
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)
