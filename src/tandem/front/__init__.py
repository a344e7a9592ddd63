"""What a person sees: finding recipes, the live view, the doctor, the dry run, the demo."""
