"""Kernels for CPUs: loop nests made for one operator's sizes and one machine's registers and caches.

TVM's CPU pipeline schedules nothing, so each kernel here is written out as statements: an output tile that stays in
registers, its reduction inside, weights packed beforehand in the order in which they are read. Every kernel is a
``PrimFunc`` with its inputs first and its output last, buffers at any offset, and no assumption that they differ.
"""
