// A pool of 64-byte aligned blocks that are kept and given out again, so that a training step in steady state allocates
// nothing from the system.
#pragma once

#include "device.h"

#include <map>
#include <memory>
#include <mutex>

class Pool : public std::enable_shared_from_this<Pool> {
  public:
    enum class Memory { Real, Imaginary }; // Imaginary: address space that takes memory only where it is written to
    struct Block {
        char *data;
        size_t bytes;
        bool lent;
        std::shared_ptr<Pool> pool; // while it is in use: blocks may outlive their plan
    };

    explicit Pool(Device &device, Memory memory = Memory::Real) : device_(device), memory_(memory) {}
    Pool(const Pool &) = delete;
    ~Pool() { release(); }

    // The smallest free block that wastes less than an eighth of itself, else one from the system.
    Block *take(size_t bytes, bool lent);
    static void give_back(Block *block);
    void release();                       // returns the free blocks to the system
    size_t held() const;                  // bytes of all blocks, free or not
    size_t lent() const;                  // blocks that were lent and have not come back
    bool owns(const char *address) const; // whether it is inside of a block, free or not

  private:
    void *allocate(size_t bytes) const; // nullptr where there is no memory
    void free(Block *block) const;
    bool is_real() const { return memory_ == Memory::Real; }

    Device &device_;
    const Memory memory_;
    size_t held_ = 0;
    std::multimap<size_t, Block *> free_;
    std::map<const char *, Block *> blocks_; // all, by address
    size_t lent_ = 0;
};

// Where a device's new arrays take memory from on this thread: the pool of its plan that is recorded or lends its memory, or
// nullptr. With `measuring`, it is that of a measurement, and nobody may touch it.
struct PoolInUse {
    Pool *pool;
    bool lent;
    bool measuring;
};
PoolInUse pool_in_use(const Device &device);
