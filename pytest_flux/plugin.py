"""What pytest loads: options, ini settings, markers, hooks and fixtures. The doors only, no logic."""
