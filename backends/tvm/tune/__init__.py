"""Choosing schedules by measuring: a few candidates of each kernel, times kept between builds."""
