"""Every kind of every slot against plain float64 formulas on six tokens."""
