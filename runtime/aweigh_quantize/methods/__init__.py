"""How one matrix is quantized: functions of tensors alone. They know no file and no model."""
